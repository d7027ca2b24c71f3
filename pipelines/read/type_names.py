"""Arrow types by name, as configs write them."""

import re

import pyarrow as pa

from pipelines.read.arrow_types import JSON_TEXT


def parse_type(text: str) -> pa.DataType:
    """The type that a name stands for.

    Args:
        text: one of pyarrow's aliases (string, int64, double, bool, ...), list<TYPE>,
            struct<NAME: TYPE, ...>, or json for any value, stored as JSON text.
    Raises:
        ValueError: it is none of these.
    """
    return JSON_TEXT if text.strip() == "json" else _parsed(text.strip())


def _parsed(text: str) -> pa.DataType:
    if match := re.fullmatch(r"list<(.+)>", text):
        return pa.list_(_parsed(match[1].strip()))
    if match := re.fullmatch(r"struct<(.+)>", text):
        return pa.struct([_field(part) for part in _split(match[1])])
    try:
        return pa.type_for_alias(text)
    except ValueError:
        raise ValueError(
            "must be types such as string, int64, double, bool, list<string>, struct<name: string> or json, "
            f"got {text!r}"
        ) from None


def _field(text: str) -> tuple[str, pa.DataType]:
    name, _, kind = text.partition(":")
    return name.strip(), _parsed(kind.strip())


def _split(text: str) -> list[str]:
    """Parts between commas that are in no brackets."""
    parts, level = [""], 0
    for character in text:
        level += (character == "<") - (character == ">")
        if character == "," and level == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts
