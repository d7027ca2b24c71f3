"""The model that a job reads."""

from typing import Literal

from pydantic import Field

from pipelines.config.section import Section
from pipelines.config.urls import Url


class ModelConfig(Section):
    """Which model writes."""

    path: Url = Field(
        description="Directory with the model and its tokenizer, local or s3://, or a hub id like owner/name."
    )
    revision: str | None = Field(None, description="Branch, tag or commit of a hub model.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Type of weights and activations; auto: the checkpoint's own."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto: cuda where Ray sees a GPU, else cpu."
    )
