"""A part of a config."""

from pathlib import PurePath
from typing import Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

# Of a tuple: one text stands for a list of one.
ONE_OR_MORE = BeforeValidator(lambda value: (str(value),) if isinstance(value, str | PurePath) else value)


class Section(BaseModel):
    """A part of a config: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


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
