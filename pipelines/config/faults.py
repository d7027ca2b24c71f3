"""What is wrong with a config, one line for each key: its rule and its value."""

import difflib
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from pipelines.config.urls import may_hold_credentials

_BOUNDS = {
    "greater_than_equal": (">=", "ge"),
    "greater_than": (">", "gt"),
    "less_than_equal": ("<=", "le"),
    "less_than": ("<", "lt"),
}
_RULES = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a whole number below 2^63",
    "tuple_type": "a list",
}


def explain_fault(item: Any, cls: type[BaseModel]) -> str:
    """One pydantic error as `decode.block_size must be >= 2, got 1`."""
    where, kind, context = dotted(item["loc"]), item["type"], item.get("ctx", {})
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
    rule = _RULES.get(kind) or item["msg"].removeprefix("Input should be ").split(", unable to parse")[0]
    return f"{where} must be {rule}{got}"


def _got(item: Any) -> str:
    """`, got VALUE`, but nothing where the value may be or hold a secret."""
    shown = repr(item["input"])
    return "" if "storage" in item["loc"] or may_hold_credentials(shown) else f", got {shown}"


def dotted(location: Sequence[str | int]) -> str:
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
