"""Hooks over the tables of a unit: before prompts are made, and before rows are written."""

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.generate.hooks.call import made_columns
from pipelines.generate.hooks.hook import Hook
from pipelines.read.columns import HIDDEN, OWN, ROW_ERROR, TableLayout
from pipelines.read.own_rows import own_rows, python_values

# What a row that fails has no more, as one that was not generated.
GENERATED = ("completion", "exactness", "logprobs", "token_ids")


def map_input(table: pa.Table, hook: Hook | None) -> pa.Table:
    """A unit's rows with the columns that input.map makes, and its errors among theirs.

    Args:
        table: as `source.read_unit` makes it, of all columns.
    """
    if hook is None:
        return table
    errors = table.column(ROW_ERROR).to_pylist()
    names = [name for name in table.column_names if not name.startswith(HIDDEN)]
    rows = own_rows(table, names, errors)
    for name, column in made_columns(hook, rows, errors).items():
        table = _with_column(_with_column(table, name, column), OWN + name, column)
    return _with_column(table, ROW_ERROR, pa.array(errors, pa.string()))


def map_output(table: pa.Table, hook: Hook, layout: TableLayout) -> pa.Table:
    """A unit's finished rows with the columns that output.map makes; a row that it fails on is an error row.

    Args:
        table: as `actor.GenerateActor` makes it.
    """
    before = table.column("error").to_pylist()
    errors = list(before)
    shown = layout.to_file(table).drop_columns(layout.made.names)
    columns = [python_values(shown.column(name), name, errors) for name in shown.column_names]
    rows = [dict(zip(shown.column_names, cells, strict=True)) for cells in zip(*columns, strict=True)]
    for name, column in made_columns(hook, rows, errors).items():
        table = _with_column(table, name, column)
    failed = pa.array([now != then for now, then in zip(errors, before, strict=True)], pa.bool_())
    return _failed(table, failed, errors) if pc.any(failed).as_py() else table


def _failed(table: pa.Table, failed: pa.Array, errors: list[str | None]) -> pa.Table:
    """The table with those rows as error rows; what they took stays counted."""
    table = _with_column(table, "error", pa.array(errors, pa.string()))
    reasons = pc.if_else(failed, "error", table.column("finish_reason"))
    table = _with_column(table, "finish_reason", reasons)
    for name in GENERATED:
        if name in table.column_names:
            column = table.column(name)
            table = _with_column(table, name, pc.if_else(failed, pa.scalar(None, column.type), column))
    return table


def _with_column(table: pa.Table, name: str, column: pa.Array | pa.ChunkedArray) -> pa.Table:
    if name not in table.column_names:
        return table.append_column(name, column)
    return table.set_column(table.column_names.index(name), name, column)
