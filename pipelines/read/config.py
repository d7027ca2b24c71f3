"""Which rows a job reads."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipelines.config.section import ONE_OR_MORE, Section
from pipelines.config.urls import Given, Url


class DatasetConfig(Section):
    """A data set by name, read through the `datasets` library."""

    name: Given = Field(
        description="Hub name (owner/name), or a local directory with data files or written by save_to_disk."
    )
    config_name: str | None = Field(None, description="Configuration (subset) of the data set.")
    split: str = Field("train", description="Split, as `datasets` writes it: train, test[:10%].")
    revision: str | None = Field(None, description="Branch, tag or commit on the hub; none: its newest.")
    files: str | None = Field(None, description="Files or a glob within the data set; none: all of them.")


class FilesConfig(Section):
    """Which files, or which data set in their place."""

    paths: Annotated[tuple[Url, ...], ONE_OR_MORE] = Field(
        (),
        description="Files, globs or directories; local (from the working directory) or any fsspec URL; "
        "hf://datasets/owner/name[@revision][/path]. A file named twice is read once.",
    )
    format: Literal["auto", "parquet", "jsonl", "json"] = Field(
        "auto",
        description="auto: by file ending (.parquet .pq; .jsonl .ndjson .json, these also with .gz .bz2 .xz "
        ".zst; .json below a directory only with json). json: one array of objects, or one object a line.",
    )
    hive_partitions: bool = Field(
        True, description="Folders of the form name=value in a file's path are text columns of its rows."
    )
    dataset: DatasetConfig | None = Field(None, description="A data set by name, instead of paths.")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if bool(self.paths) == (self.dataset is not None):
            found = "both" if self.paths else "neither"
            raise ValueError(f"must have either paths or dataset, got {found}")
        return self
