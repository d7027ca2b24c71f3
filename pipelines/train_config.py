"""Settings of the train job: one yaml file, checked before anything runs."""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from orthrus_core.errors import ConfigError
from orthrus_core.training.config import (
    BackboneConfig,
    HeadConfig,
    LoopConfig,
    OptimizerConfig,
    PackingConfig,
    StrictConfig,
)


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
_ADAPTER: TypeAdapter[TrainConfig] = TypeAdapter(Annotated[TrainConfig, Field(discriminator="kind")])


def load_train_config(path: Path, settings: list[str]) -> TrainConfig:
    """Read a yaml file and apply `key=value` settings on top.

    Args:
        path: the yaml file.
        settings: dotted keys with yaml values, such as `loop.max_tokens=1000`; the last one wins.
    Raises:
        ConfigError: unreadable file, malformed setting, unknown key or value out of bounds.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read config {path}: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"config {path} must be a mapping of keys to values")
    for setting in settings:
        _apply(values, setting)
    try:
        return _ADAPTER.validate_python(values)
    except ValidationError as error:
        raise ConfigError("; ".join(_describe(problem) for problem in error.errors())) from error


def _apply(values: dict[str, Any], setting: str) -> None:
    key, separator, text = setting.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set takes key=value, got {setting!r}")
    *parents, leaf = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--set {key}: {parent} is a value, it has no keys below it")
    try:
        values[leaf] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {key}: {text!r} is not yaml") from error


def _describe(problem: Any) -> str:
    # The first part of the location is the tag of the union ("backbone", "head"), which no user wrote.
    key = ".".join(str(part) for part in problem["loc"][1:]) or "kind"
    given = problem.get("input")
    got = "" if problem["type"] == "missing" or isinstance(given, dict) else f", got {given!r}"
    return f"train.{key}: {problem['msg']}{got}"
