"""Options of the generate job: the only place where they live.

A config is a yaml file of the sections below. Precedence: command line > yaml > default.
"""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from orthrus_core.decoding.config import EngineConfig
from orthrus_core.decoding.sampling import SamplingParams
from orthrus_core.errors import ConfigError


class Section(BaseModel):
    """A part of a config: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PromptConfig(Section):
    """Where a row's prompt comes from: exactly one of column, messages and template."""

    column: str | None = Field(None, description="Text column that holds the prompt.")
    messages: str | None = Field(None, description="Column with a list of {role, content} messages.")
    template: str | None = Field(None, description="Jinja template over the row's columns.")
    system: str | None = Field(None, description="System message put before prompts that have none.")
    chat: bool = Field(
        True, description="Render through the tokenizer's chat template; false: the text as it is."
    )
    template_args: dict[str, Any] = Field(
        default_factory=dict,
        description="Extra variables of the chat template, such as enable_thinking: false.",
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in ("column", "messages", "template") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) if given else "none of them"
            raise ValueError(f"must have exactly one of column, messages, template, got {found}")
        if not self.chat and (self.messages is not None or self.system is not None):
            raise ValueError("must have chat: true with messages or system")
        return self


class InputConfig(Section):
    """Which rows to read and what to make of them."""

    paths: tuple[str, ...] = Field(
        min_length=1,
        description="Files, globs or directories; local (from the working directory) or any fsspec URL. "
        "A file named twice is read once.",
    )
    format: Literal["auto", "parquet", "jsonl"] = Field(
        "auto", description="auto: by file ending (.parquet .pq, .jsonl .ndjson)."
    )
    prompt: PromptConfig = Field(description="Where prompts come from.")
    id_column: str | None = Field(
        None, description="Column that becomes `id`; none: {shard}:{row}, counted from 0."
    )
    carry: tuple[str, ...] | None = Field(
        None, description="Input columns written beside the completion; none given: all of them."
    )

    @field_validator("paths", mode="before")
    @classmethod
    def _one_path_is_a_list_of_one(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class ModelConfig(Section):
    """Which model writes."""

    path: str = Field(description="Directory with the model and its tokenizer, or a hub id like owner/name.")
    revision: str | None = Field(None, description="Branch, tag or commit of a hub model.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Type of weights and activations; auto: the checkpoint's own."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto: cuda where Ray sees a GPU, else cpu."
    )


class SamplingColumns(Section):
    """Columns whose value replaces an option for its row, where it is not null."""

    max_new_tokens: str | None = Field(None, description="Column with the row's own max_new_tokens.")


class SamplingConfig(SamplingParams):
    """How each completion is chosen and where it ends; per-row values from columns."""

    columns: SamplingColumns = Field(
        default_factory=SamplingColumns, description="Per-row values, by option name."
    )

    @property
    def params(self) -> SamplingParams:
        """What the engine takes."""
        return SamplingParams(**self.model_dump(exclude={"columns"}))


class OutputConfig(Section):
    """Where the result goes."""

    path: str = Field(description="Directory or any fsspec URL; holds data/ and _run/ afterwards.")
    token_ids: bool = Field(False, description="Also write the completion's token ids.")
    prompt_token_ids: bool = Field(False, description="Also write the prompt's token ids.")


class RunConfig(Section):
    """How the work is spread over machines. Nothing here but unit_rows changes the output files."""

    unit_rows: int = Field(256, ge=1, description="Most rows of one work unit = one output file.")
    actors: int = Field(1, ge=1, description="Engines side by side, each in its own process.")
    cpus_per_actor: float = Field(1.0, gt=0, description="CPUs that Ray reserves for each.")
    gpus_per_actor: float | None = Field(
        None, ge=0, description="GPUs that Ray reserves for each; none: 1 on cuda, 0 on cpu."
    )
    threads_per_actor: int | None = Field(
        None, ge=1, description="Torch threads of each; none: cpus_per_actor rounded down, at least 1."
    )
    calls_in_flight: int | None = Field(
        None, ge=1, description="Units an actor works on at once; none: enough to keep its engine full."
    )
    retries: int = Field(
        3,
        ge=0,
        description="Deaths of actors in a row, without a finished unit between them, that are repaired.",
    )
    progress_every_s: float = Field(10.0, gt=0, description="Seconds between progress lines.")
    ray_address: str | None = Field(
        None, description="Cluster to join; none: a running one or a new local one; local: always new."
    )


class GenerateConfig(Section):
    """The whole generate job."""

    input: InputConfig = Field(description="Prompts.")
    model: ModelConfig = Field(description="Model.")
    decode: EngineConfig = Field(default_factory=EngineConfig, description="Engine.")
    sampling: SamplingConfig = Field(default_factory=SamplingConfig, description="Choice and end of text.")
    output: OutputConfig = Field(description="Result.")
    run: RunConfig = Field(default_factory=RunConfig, description="Machines.")


ConfigT = TypeVar("ConfigT", bound=BaseModel)


def load_config(cls: type[ConfigT], path: str | Path, overrides: Sequence[str] = ()) -> ConfigT:
    """Read a yaml config and put command-line values over it.

    Args:
        cls: the job's config model.
        path: yaml file.
        overrides: `a.b=value` each, the value in yaml syntax.
    Raises:
        ConfigError: one line that names each bad key, its rule and its value.
    """
    tree = _read_yaml(Path(path))
    for override in overrides:
        _apply_override(tree, override)
    try:
        return cls.model_validate(tree)
    except ValidationError as error:
        lines = {_dotted(item["loc"]): _explain(item, cls) for item in reversed(error.errors())}
        raise ConfigError("; ".join(reversed(lines.values()))) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read config {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"config {path} is not yaml: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"config {path} must hold sections such as input and model")
    return tree


def _apply_override(tree: dict[str, Any], override: str) -> None:
    """Set one `a.b=value` in a tree of dicts, in place."""
    name, equals, text = override.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set takes key.key=value, got {override!r}")
    for key in keys[:-1]:
        if tree.get(key) is None:
            tree[key] = {}
        tree = tree[key]
        if not isinstance(tree, dict):
            raise ConfigError(f"--set {name}: {key} is a value, not a section")
    try:
        tree[keys[-1]] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"--set {name}: value is not yaml, got {text!r}") from None


_BOUNDS = {
    "greater_than_equal": (">=", "ge"),
    "greater_than": (">", "gt"),
    "less_than_equal": ("<=", "le"),
    "less_than": ("<", "lt"),
}


def _explain(item: Any, cls: type[BaseModel]) -> str:
    """One pydantic error as `decode.block_size must be >= 2, got 1`."""
    where, kind, context = _dotted(item["loc"]), item["type"], item.get("ctx", {})
    got = f", got {item['input']!r}"
    if kind == "missing":
        return f"{where} is required"
    if kind == "extra_forbidden":
        return f"{where} is not a known key{_suggestion(item['loc'], cls)}"
    if kind in _BOUNDS:
        sign, key = _BOUNDS[kind]
        return f"{where} must be {sign} {context[key]}{got}"
    if kind == "literal_error":
        return f"{where} must be {context['expected']}{got}"
    if kind == "value_error":
        text = str(context["error"])
        return f"{where} {text.removeprefix(where.rsplit('.', 1)[-1]).strip()}"
    rule = item["msg"].removeprefix("Input should be ").split(", unable to parse")[0]
    return f"{where} must be {rule}{got}"


def _dotted(location: Sequence[str | int]) -> str:
    """('input', 'paths', 0) as input.paths[0]; pydantic's names of union members are left out."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part.isidentifier() and part not in ("int", "str", "tuple"):
            text += f".{part}" if text else part
    return text


def _suggestion(location: Sequence[str | int], cls: type[BaseModel]) -> str:
    """`, did you mean block_size?` or the list of known keys of the section."""
    for part in location[:-1]:
        field = cls.model_fields.get(str(part))
        if field is None or not isinstance(field.annotation, type):
            return ""
        cls = field.annotation
    close = difflib.get_close_matches(str(location[-1]), cls.model_fields, n=1)
    if close:
        return f", did you mean {close[0]}?"
    return f"; known: {', '.join(cls.model_fields)}"
