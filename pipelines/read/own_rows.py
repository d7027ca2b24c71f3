"""Rows as their files have them: what prompts are made of, whatever other rows and files hold."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from pipelines.read.columns import HIDDEN, LINE, OWN
from pipelines.read.jsonl import jsonl_rows


def own_rows(
    table: pa.Table, names: Sequence[str], errors: list[str | None], *, structured: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Rows as plain Python values, those of jsonl as their lines say.

    Args:
        table: as `source.read_unit` makes it.
        names: the columns wanted; what a line does not say is None.
        errors: of each row; one that cannot be read gets an error, in place.
        structured: Parquet columns whose values lose all nulls, since Arrow gives every message, tool call
            and tool schema the keys of all others; their maps become dicts.
    """
    has_lines = LINE in table.column_names
    made = {name for name in names if OWN + name in table.column_names}
    stored = [name for name in names if name.startswith(HIDDEN) or not has_lines or name in made]
    columns = {name: python_values(_own(table, name), name, errors) for name in stored}
    for name in columns.keys() & structured:
        columns[name] = [_without_nulls(value) for value in columns[name]]
    rows = [{name: values[place] for name, values in columns.items()} for place in range(table.num_rows)]
    if has_lines:
        said = [name for name in names if name not in columns]
        for place, line in enumerate(table.column(LINE).to_pylist()):
            rows[place] |= _said(line, said, place, errors)
    return rows


def _own(table: pa.Table, name: str) -> pa.ChunkedArray:
    return table.column(OWN + name if OWN + name in table.column_names else name)


def _said(line: bytes | None, names: Sequence[str], place: int, errors: list[str | None]) -> dict[str, Any]:
    """What a line says of columns."""
    [own] = jsonl_rows([b"{}" if line is None else line])
    if isinstance(own, str):
        errors[place], own = errors[place] or own, {}
    return {name: own.get(name) for name in names}


def python_values(column: pa.ChunkedArray, name: str, errors: list[str | None]) -> list[Any]:
    """A column's values; those that Python has none for become None with an error, in place."""
    try:
        return column.to_pylist()
    except (ValueError, OverflowError):
        pass
    values: list[Any] = []
    for index, scalar in enumerate(column):
        try:
            values.append(scalar.as_py())
        except UnicodeDecodeError:
            values.append(None)
            errors[index] = errors[index] or f"column {name} is not valid UTF-8"
        except (ValueError, OverflowError) as error:
            values.append(None)
            errors[index] = errors[index] or f"column {name} cannot be read: {error}"
    return values


def _without_nulls(value: Any) -> Any:
    """The value without keys that are null, at every depth; pairs of keys and values, as pyarrow makes them
    of maps, are a dict."""
    if isinstance(value, list) and value and all(isinstance(cell, tuple) for cell in value):
        value = dict(value)
    if isinstance(value, dict):
        return {key: _without_nulls(cell) for key, cell in value.items() if cell is not None}
    return [_without_nulls(cell) for cell in value] if isinstance(value, list) else value
