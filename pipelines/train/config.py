"""Options of the train job: a backbone from scratch, or a diffusion head on a frozen backbone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, field_validator, model_validator

from orthrus_core.training.config import (
    BackboneConfig,
    HeadConfig,
    LoopConfig,
    OptimizerConfig,
    PackingConfig,
    StrictConfig,
)
from pipelines.command.config_file import load_config
from pipelines.config.section import ONE_OR_MORE
from pipelines.config.urls import Url
from pipelines.storage.config import StorageConfig


class OutputConfig(StrictConfig):
    """Where the trained model goes."""

    path: Url = Field(
        description="Model directory, local or any fsspec URL; checkpoints, prepared data and TensorBoard "
        "files lie in its _run/. The same command goes on from the last checkpoint."
    )
    overwrite: bool = Field(
        False, description="Replace a finished model, or the run of another recipe, that `path` holds."
    )
    keep_checkpoints: int = Field(2, ge=1, description="Checkpoints kept; older ones are removed.")


class SourceDataConfig(StrictConfig):
    """An endless stream of documents that a module makes, such as the demo's generated tasks."""

    source: str = Field(
        description="Module with `TrainingDocuments`, `held_out_documents` and `right_answers`, for instance "
        "pipelines.demo.documents."
    )
    seed: int = Field(0, ge=0, description="Seed of the stream.")
    held_out_documents: int = Field(400, gt=0, description="Held-out documents for the loss during training.")
    held_out_answers: int = Field(300, ge=0, description="Held-out prompts answered and checked at the end.")


class RowDataConfig(StrictConfig):
    """Prompts and completions as token ids, as the generate job writes them."""

    path: Annotated[tuple[Url, ...], ONE_OR_MORE] = Field(
        description="The output of a generate job, or files, globs or directories (Parquet, JSONL); local or "
        "any fsspec URL; hf://datasets/owner/name[@revision][/path]."
    )
    format: Literal["auto", "parquet", "jsonl"] = Field(
        "auto",
        description="auto: by file ending (.parquet .pq, .jsonl .ndjson, the latter two also with .gz .bz2 "
        ".xz .zst).",
    )
    prompt_column: str = Field("prompt_token_ids", description="Column with the prompt, list of token ids.")
    completion_column: str = Field("token_ids", description="Column with the completion, final EOS included.")
    error_column: str = Field(
        "error", description="Rows with a value in this column are left out; it may be absent."
    )
    too_long: Literal["refuse", "drop"] = Field(
        "refuse", description="What to do with rows longer than packing.sequence_len."
    )
    check_tokenizer: bool = Field(
        True,
        description="Refuse the output of a generate job whose tokenizer is not the backbone's.",
    )
    held_out_documents: int = Field(
        300, gt=0, description="Rows kept out of training, for evaluation; drawn by `seed`."
    )
    unit_rows: int = Field(4096, gt=0, description="Most rows of one prepared shard.")
    shuffle_documents: int = Field(
        32768, ge=1024, description="Documents that are shuffled together, and held in memory, at a time."
    )

    @field_validator("path")
    @classmethod
    def _names_something(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("must name at least one file or directory")
        return value


class ScalingConfig(StrictConfig):
    """Who trains: this process, or workers of Ray Train."""

    workers: int = Field(
        1,
        ge=0,
        description="Workers of Ray Train, each with a copy or a part of the model. 0: this process, "
        "without Ray.",
    )
    use_gpu: bool = Field(
        False, description="One GPU for each worker, and NCCL between them; else CPU and Gloo."
    )
    mode: Literal["ddp", "fsdp2"] = Field(
        "ddp", description="Several workers: a copy of the model each, or its parameters shared out."
    )
    resources_per_worker: dict[str, float] = Field(
        default_factory=dict,
        description="Ray resources of a worker, such as {CPU: 8, GPU: 1}; not given: CPU: num_threads, "
        "and a GPU with use_gpu.",
    )
    max_failures: int = Field(
        3,
        ge=0,
        description="Workers lost before the run fails; each time it goes on from the last checkpoint.",
    )
    ray_address: str | None = Field(
        None,
        description="Cluster to join; none: a running one if there is one, else this machine. "
        "local: this machine.",
    )

    @model_validator(mode="after")
    def _modes_fit(self) -> Self:
        if self.mode == "fsdp2" and self.workers == 0:
            raise ValueError("mode fsdp2 must have workers >= 1, got 0")
        return self


class _TrainConfig(StrictConfig):
    seed: int = Field(0, ge=0, description="Seed of weights, order and anchors.")
    num_threads: int = Field(1, gt=0, description="CPU threads of the arithmetic.")
    compile: bool = Field(False, description="Compile the model's forward; needs a C++ compiler on CPUs.")
    output: OutputConfig
    packing: PackingConfig = PackingConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    loop: LoopConfig
    scaling: ScalingConfig = ScalingConfig()
    storage: StorageConfig = Field(default_factory=StorageConfig, description="Object storage.")


class BackboneTrainConfig(_TrainConfig):
    """A backbone from scratch on documents that a module makes."""

    kind: Literal["backbone"]
    tokenizer: Path = Field(..., description="Tokenizer directory, copied into the output.")
    backbone: BackboneConfig = BackboneConfig()
    data: SourceDataConfig


class HeadTrainConfig(_TrainConfig):
    """A diffusion head on a frozen backbone."""

    kind: Literal["head"]
    backbone: Url = Field(
        description="The frozen backbone with its tokenizer: a directory, local or s3://, or a hub id."
    )
    revision: str | None = Field(None, description="Branch, tag or commit of a hub backbone.")
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
