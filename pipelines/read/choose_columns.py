"""Which columns of an input are read, and which of them travel to the output."""

from collections.abc import Mapping, Sequence

import pyarrow as pa

from orthrus_core.errors import ConfigError
from pipelines.read.arrow_types import stored_type
from pipelines.read.columns import HIDDEN, NAMES, TableLayout


def choose_layout(
    schema: pa.Schema,
    *,
    needed: Sequence[str],
    carry: Sequence[str] | None,
    id_column: str | None,
    seed_column: str | None = None,
    rename: Mapping[str, str] | None = None,
    made: pa.Schema | None = None,
    **flags: bool,
) -> TableLayout:
    """Decide which input columns are read and which travel to the output.

    Args:
        schema: columns of the input, all shards together.
        needed: columns that prompts and per-row options are made of; all of them in the schema.
        carry: columns to write beside the completion; None: all.
        id_column: column that becomes `id`, and so is not carried under its own name if that is `id`.
        seed_column: column with seeds of rows, the same for `seed`.
        made: columns that output.map makes.
        flags: which columns are written, see `TableLayout`.
    Raises:
        ConfigError: a carried column does not exist or has the name of an output column.
    """
    carried = list(schema.names) if carry is None else list(dict.fromkeys(carry))
    missing = [name for name in carried if name not in schema.names]
    if missing:
        raise ConfigError(f"input.carry: no column {', '.join(missing)}; there are {', '.join(schema.names)}")
    own = {"id": id_column, "seed": seed_column}  # these come back as output columns of that name
    carried = [name for name in carried if own.get(name) != name]
    read = [*dict.fromkeys([*needed, *([id_column] if id_column else []), *carried])]
    fields = [pa.field(name, stored_type(schema.field(name).type)) for name in carried]
    layout = TableLayout(
        pa.schema(fields),
        tuple(read),
        rename=dict(rename or {}),
        made=pa.schema([one.with_type(stored_type(one.type)) for one in made or ()]),
        **flags,
    )
    _refuse_collisions(layout)
    return layout


def _refuse_collisions(layout: TableLayout) -> None:
    if twice := [n for n in layout.made.names if n in (*layout.carried.names, *layout.rename.values())]:
        raise ConfigError(
            f"output.map_columns: there is a column {', '.join(twice)} already; give another name, or leave "
            "that one out with input.carry"
        )
    names = [name for name in layout.dropped.names if not name.startswith(HIDDEN)]
    taken = [name for name in layout.carried.names if names.count(name) > 1 or name.startswith(HIDDEN)]
    if not taken:
        return
    of_written = {layout.rename.get(name, name): name for name in NAMES}
    renamed = ", ".join(f"{of_written[name]}: generated_{name}" for name in taken if name in of_written)
    raise ConfigError(
        f"input columns with names of output columns: {', '.join(taken)}; "
        + ("set input.id_column: id, or " if of_written.get("id") == "id" and "id" in taken else "")
        + (f"set output.rename: {{{renamed}}}, or " if renamed else "")
        + "list the columns to keep in input.carry"
    )
