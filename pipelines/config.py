"""What the configs of all jobs share: sections, the model, and reading a yaml file.

Precedence: command line > yaml > default.
"""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orthrus_core.errors import ConfigError
from pipelines.config_file import parse_yaml, read_config_text
from pipelines.urls import Url, may_hold_credentials


class Section(BaseModel):
    """A part of a config: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


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


ConfigT = TypeVar("ConfigT", bound=BaseModel)


def load_config(cls: type[ConfigT], path: str | Path, overrides: Sequence[str] = ()) -> ConfigT:
    """Read a yaml config and put command-line values over it.

    Args:
        cls: the job's config model.
        path: yaml file, or a URL of one.
        overrides: `a.b=value` each, the value in yaml syntax.
    Raises:
        ConfigError: one line that names each bad key, its rule and its value.
    """
    tree = _read_yaml(str(path), _storage_of(overrides))
    for override in overrides:
        _apply_override(tree, override)
    try:
        return cls.model_validate(tree)
    except ValidationError as error:
        lines = {_dotted(item["loc"]): explain_fault(item, cls) for item in reversed(error.errors())}
        raise ConfigError("; ".join(reversed(lines.values()))) from None


def _storage_of(overrides: Sequence[str]) -> dict[str, Any]:
    """The section `storage` as the command line alone has it."""
    tree: dict[str, Any] = {}
    for override in overrides:
        if override.startswith("storage."):
            _apply_override(tree, override)
    return tree.get("storage", {})


def _read_yaml(path: str, storage: dict[str, Any]) -> dict[str, Any]:
    """A config's tree; `storage` says how to reach a URL."""
    try:
        tree = parse_yaml(read_config_text(path, storage))
    except OSError as error:
        raise ConfigError(f"cannot read config {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"config {path} is not yaml: {_yaml_fault(error)}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"config {path} must hold sections such as input and model")
    return tree


def _yaml_fault(error: yaml.YAMLError) -> str:
    """What is wrong and where, without the line itself: it may hold a password."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return " ".join(str(error).split())
    return f"{getattr(error, 'problem', None) or 'cannot be read'} in line {mark.line + 1}"


def flat_options(section: BaseModel, prefix: str = "") -> dict[str, Any]:
    """All options of a section and of those inside it: dotted name to value.

    Args:
        prefix: put before every name, its dot included.
    """
    flat: dict[str, Any] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            flat |= flat_options(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def option_defaults(section: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """The defaults of options that have one, of a section and of those inside it: dotted name to value."""
    flat: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            flat |= option_defaults(field.annotation, f"{prefix}{name}.")
        elif not field.is_required():
            flat[prefix + name] = field.get_default(call_default_factory=True)
    return flat


def _apply_override(tree: dict[str, Any], override: str) -> None:
    """Set one `a.b=value` in a tree of dicts, in place."""
    name, equals, text = override.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set takes key.key=value, got {override.partition('=')[0]!r}")
    for key in keys[:-1]:
        if tree.get(key) is None:
            tree[key] = {}
        tree = tree[key]
        if not isinstance(tree, dict):
            raise ConfigError(f"--set {name}: {key} is a value, not a section")
    try:
        tree[keys[-1]] = parse_yaml(text)
    except yaml.YAMLError as error:
        got = "" if keys[0] == "storage" else f" ({_yaml_fault(error)}), got {text!r}"
        raise ConfigError(f"--set {name}: value is not yaml{got}") from None


_BOUNDS = {
    "greater_than_equal": (">=", "ge"),
    "greater_than": (">", "gt"),
    "less_than_equal": ("<=", "le"),
    "less_than": ("<", "lt"),
}


def explain_fault(item: Any, cls: type[BaseModel]) -> str:
    """One pydantic error as `decode.block_size must be >= 2, got 1`."""
    where, kind, context = _dotted(item["loc"]), item["type"], item.get("ctx", {})
    got = _got(item)
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


def _got(item: Any) -> str:
    """`, got VALUE`, but nothing where the value may be or hold a secret."""
    shown = repr(item["input"])
    return "" if "storage" in item["loc"] or may_hold_credentials(shown) else f", got {shown}"


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
