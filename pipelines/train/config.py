"""Options of the train job: a backbone from scratch, or a diffusion head on a frozen backbone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from orthrus_core.training.config import (
    BackboneConfig,
    HeadConfig,
    LoopConfig,
    OptimizerConfig,
    PackingConfig,
    StrictConfig,
)
from pipelines.config import load_config


class OutputConfig(StrictConfig):
    """Where the trained model goes."""

    path: Path = Field(..., description="Model directory; always the last complete snapshot.")
    overwrite: bool = Field(False, description="Replace a model that an earlier run left at `path`.")


class TaskDataConfig(StrictConfig):
    """The demo's generated tasks, an endless stream."""

    seed: int = Field(0, ge=0, description="Seed of the task stream.")
    held_out_documents: int = Field(400, gt=0, description="Held-out tasks for the loss during training.")
    held_out_answers: int = Field(300, ge=0, description="Held-out prompts answered and checked at the end.")


class RowDataConfig(StrictConfig):
    """Prompts and completions as token ids, as the generate job writes them."""

    path: Path = Field(..., description="Directory of Parquet files, or one file.")
    prompt_column: str = Field("prompt_token_ids", description="Column with the prompt, list of token ids.")
    completion_column: str = Field("token_ids", description="Column with the completion, final EOS included.")
    too_long: Literal["refuse", "drop"] = Field(
        "refuse", description="What to do with rows longer than packing.sequence_len."
    )
    held_out_documents: int = Field(300, gt=0, description="Rows kept out of training, for evaluation.")


class _TrainConfig(StrictConfig):
    seed: int = Field(0, ge=0, description="Seed of weights, order and anchors.")
    num_threads: int = Field(1, gt=0, description="CPU threads of the arithmetic.")
    compile: bool = Field(False, description="Compile the model's forward; needs a C++ compiler on CPUs.")
    output: OutputConfig
    packing: PackingConfig = PackingConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    loop: LoopConfig


class BackboneTrainConfig(_TrainConfig):
    """A backbone from scratch on the demo tasks."""

    kind: Literal["backbone"]
    tokenizer: Path = Field(..., description="Tokenizer directory, copied into the output.")
    backbone: BackboneConfig = BackboneConfig()
    data: TaskDataConfig = TaskDataConfig()


class HeadTrainConfig(_TrainConfig):
    """A diffusion head on a frozen backbone."""

    kind: Literal["head"]
    backbone: Path = Field(..., description="Directory of the frozen backbone, with its tokenizer.")
    head: HeadConfig = HeadConfig()
    data: RowDataConfig


TrainConfig = BackboneTrainConfig | HeadTrainConfig


class _Kind(BaseModel):
    """The one key that says which of the configs a file holds."""

    kind: Literal["backbone", "head"]


def load_train_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a yaml file and put command-line values over it.

    Args:
        path: the yaml file; its `kind` decides which keys it may have.
        overrides: `a.b=value` each, such as `loop.max_tokens=1000`; the last one wins.
    Raises:
        ConfigError: one line that names each bad key, its rule and its value.
    """
    if load_config(_Kind, path, overrides).kind == "backbone":
        return load_config(BackboneTrainConfig, path, overrides)
    return load_config(HeadTrainConfig, path, overrides)
