"""Reading units: one read task = one unit = one block.

Ray's own `read_parquet` packs many small files into one block, so that one actor gets all the work.
"""

import json
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from pipelines.read.arrow_types import JSON_TEXT, bring_to, has_dictionaries, plain_type, stored_type
from pipelines.read.columns import (
    FILE,
    LINE,
    OVERWRITTEN,
    OWN,
    ROW,
    ROW_ERROR,
    SHARD,
    UNFIT,
    UNIT,
    UNREADABLE,
    TableLayout,
)
from pipelines.read.input_file import (
    CHANGED,
    BadFileError,
    ChangedFileError,
    WatchedFile,
    read_file,
    uncompressed,
)
from pipelines.read.jsonl import array_spans, jsonl_rows
from pipelines.read.shard import Shard
from pipelines.read.units import Plan, Unit
from pipelines.storage.config import StorageConfig, use_storage


class UnfitFileError(BadFileError):
    """A file with values that do not fit the types that all files together have."""


class UnitSource(Datasource):
    """The units that are still to be done, as a Ray data source."""

    def __init__(
        self,
        plan: Plan,
        units: Sequence[Unit],
        layout: TableLayout,
        storage: StorageConfig | None = None,
    ):
        """Args: storage is how reading tasks reach the files; None: as their process does already."""
        super().__init__()
        self._storage = storage
        self._plan = plan
        self._units = units
        self._types = column_types(plan, layout)

    def get_name(self) -> str:
        """Name of the read stage."""
        return "Units"

    def estimate_inmemory_data_size(self) -> int:
        """Bytes on disk of the units; Ray only needs the order of magnitude."""
        return sum(self._bytes(unit) for unit in self._units)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """One task for each unit, whatever parallelism is asked for."""
        return [self._task(unit) for unit in self._units]

    def _task(self, unit: Unit) -> ReadTask:
        shards = self._plan.shards_of(unit)
        size = self._bytes(unit)
        metadata = BlockMetadata(
            num_rows=unit.num_rows, size_bytes=size, input_files=(shards[0].file.url,), exec_stats=None
        )
        return ReadTask(partial(_blocks, shards, unit, self._types, self._storage), metadata)

    def _bytes(self, unit: Unit) -> int:
        shards = self._plan.shards_of(unit)
        rows = sum(shard.num_rows for shard in shards)
        return sum(shard.file.size for shard in shards) * unit.num_rows // max(1, rows)


def column_types(plan: Plan, layout: TableLayout) -> pa.Schema:
    """Columns to read, with the types that all shards are brought to."""
    return pa.schema([plan.schema.field(name).remove_metadata() for name in layout.read])


def read_unit(shards: Sequence[Shard], unit: Unit, types: pa.Schema) -> pa.Table:
    """Read one unit's rows.

    Args:
        shards: the unit's.
        types: the columns wanted; a column that this shard lacks comes back null.
    Returns:
        A table of `unit.num_rows` rows: the columns wanted, of JSON LINE, of Parquet perhaps OWN columns,
        then SHARD, UNIT, FILE, ROW and ROW_ERROR (null, or why a JSON row does not fit its columns; it then
        has nulls in those). Where a shard is damaged, its rows have nulls and an error that begins with
        UNREADABLE; where it has changed, with OVERWRITTEN; where values do not fit the types, with UNFIT.
    """
    if len(shards) == 1:
        return _read_piece(shards[0], unit, unit, types)
    pieces = [(shard, _whole(shard)) for shard in shards if shard.num_rows]
    return pa.concat_tables(
        [_read_piece(shard, piece, unit, types) for shard, piece in pieces], promote_options="default"
    )


def _whole(shard: Shard) -> Unit:
    """A shard that is no more than one unit."""
    first, last = (shard.offsets[0], shard.offsets[-1]) if shard.offsets else (0, 0)
    return Unit(shard.index, 0, 0, shard.num_rows, first, last)


def _read_piece(shard: Shard, piece: Unit, unit: Unit, types: pa.Schema) -> pa.Table:
    """The rows of a unit that one shard has."""
    columns, errors = _read(shard, piece, types)
    count = piece.num_rows
    numbers = {SHARD: unit.shard, UNIT: unit.index, FILE: shard.index}
    columns |= {name: pa.repeat(pa.scalar(number, pa.int32()), count) for name, number in numbers.items()}
    columns[ROW] = pa.array(range(piece.start, piece.start + count), pa.int64())
    columns[ROW_ERROR] = pa.array(errors, pa.string())
    return pa.table(columns)


def _read(shard: Shard, unit: Unit, types: pa.Schema) -> tuple[dict[str, Any], list[str | None]]:
    """Columns and errors of a unit's rows; of a damaged one, nulls and the damage."""
    try:
        if shard.format == "parquet":
            columns = read_file(shard.file, partial(_read_parquet, shard, unit, types), cache="none")
            errors: list[str | None] = [None] * unit.num_rows
        else:
            columns, errors = read_file(shard.file, partial(_read_json, shard, unit, types))
        if len(errors) != unit.num_rows or any(len(column) != unit.num_rows for column in columns.values()):
            raise ChangedFileError(CHANGED)
        return columns, errors
    except BadFileError as error:
        rows = f"rows {unit.start} to {unit.start + unit.num_rows - 1}"
        prefix = OVERWRITTEN if isinstance(error, ChangedFileError) else UNREADABLE
        prefix = UNFIT if isinstance(error, UnfitFileError) else prefix
        fault = f"{prefix}{shard.file.url}, unit {unit.index} ({rows}): {error}"
    nothing = {
        name: pa.nulls(unit.num_rows, stored_type(kind))
        for name, kind in zip(types.names, types.types, strict=True)
    }
    return nothing, [fault] * unit.num_rows


def _blocks(
    shards: Sequence[Shard], unit: Unit, types: pa.Schema, storage: StorageConfig | None
) -> list[pa.Table]:
    if storage is not None:
        use_storage(storage)
    return [read_unit(shards, unit, types)]


def _read_parquet(shard: Shard, unit: Unit, types: pa.Schema, handle: WatchedFile) -> dict[str, Any]:
    groups, skip = _row_groups(shard, unit)
    file = pq.ParquetFile(handle, pre_buffer=True, page_checksum_verification=True)
    names = [name for name in file.schema_arrow.names if name in types.names]
    parts = [groups]
    if any(has_dictionaries(file.schema_arrow.field(name).type) for name in names):
        parts = [[group] for group in groups]  # pyarrow cannot read such a column over several
    size = max(1024, unit.num_rows)
    batches = (
        batch
        for part in parts
        for batch in file.iter_batches(batch_size=size, row_groups=part, columns=names)
    )
    taken = _take(batches, skip, unit.num_rows)
    if not taken:
        raise ChangedFileError(CHANGED)
    table = pa.Table.from_batches(taken)
    columns: dict[str, Any] = {}
    for name, kind in zip(types.names, types.types, strict=True):
        if name not in names:
            columns[name] = _of_path(shard.partitions.get(name), stored_type(kind), unit.num_rows)
            continue
        own = bring_to(table.column(name), plain_type(table.column(name).type))
        columns[name] = _fitted(name, own, stored_type(kind))
        if own.type != columns[name].type:
            columns[OWN + name] = own
    return columns


def _of_path(value: str | None, kind: pa.DataType, count: int) -> pa.Array:
    """A column that the file lacks: what its path says of it, or nulls."""
    return pa.array([value] * count, kind)


def _fitted(name: str, column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    try:
        return bring_to(column, kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UnfitFileError(
            f"column {name} is {column.type} in this file, {kind} in all together, and not every value fits: "
            f"{error}; make the files agree, or leave the column out with input.carry"
        ) from None


def _row_groups(shard: Shard, unit: Unit) -> tuple[list[int], int]:
    """Row groups that hold a unit, and how many rows of the first come before it."""
    groups: list[int] = []
    first, skip = 0, 0
    for number, rows in enumerate(shard.row_groups):
        if first < unit.start + unit.num_rows and first + rows > unit.start:
            if not groups:
                skip = unit.start - first
            groups.append(number)
        first += rows
    return groups, skip


def _take(batches: Iterator[pa.RecordBatch], skip: int, count: int) -> list[pa.RecordBatch]:
    """Rows skip .. skip+count of a stream, reading no further than needed."""
    taken = []
    for batch in batches:
        piece = batch.slice(skip, count)
        skip = max(0, skip - batch.num_rows)
        if piece.num_rows:
            taken.append(piece)
            count -= piece.num_rows
        if count == 0:
            break
    return taken


def _read_json(
    shard: Shard, unit: Unit, types: pa.Schema, handle: WatchedFile
) -> tuple[dict[str, Any], list[str | None]]:
    with uncompressed(handle, shard.file.url) as stream:
        stream.seek(unit.first_byte)
        content = stream.read(unit.last_byte - unit.first_byte)
    lines = (
        _elements(content) if shard.format == "json" else [one for one in content.split(b"\n") if one.strip()]
    )
    rows = list(jsonl_rows(lines))
    errors = [row if isinstance(row, str) else None for row in rows]
    dicts = [{**shard.partitions, **(row if isinstance(row, dict) else {})} for row in rows]
    columns: dict[str, Any] = {
        name: typed_column(name, kind, [row.get(name) for row in dicts], errors)
        for name, kind in zip(types.names, types.types, strict=True)
    }
    own = [line if isinstance(row, dict) else None for line, row in zip(lines, rows, strict=True)]
    if shard.partitions:
        own = [line and json.dumps(row).encode() for line, row in zip(own, dicts, strict=True)]
    columns[LINE] = pa.array(own, pa.large_binary())
    return columns, errors


def _elements(content: bytes) -> list[bytes]:
    """Elements of a JSON array, of some that follow each other in it."""
    whole = b"[" + content.rstrip().removesuffix(b",") + b"]"
    return [whole[first:last] for first, last in array_spans(whole)]


def typed_column(name: str, kind: pa.DataType, values: list[Any], errors: list[str | None]) -> pa.Array:
    """Values as an array; those that do not fit become null and get an error, in place."""
    if kind == JSON_TEXT:
        values = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
        return pa.array(values, stored_type(kind))
    try:
        return pa.array(values, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        pass
    fitting: list[Any] = []
    for index, value in enumerate(values):
        try:
            pa.array([value], kind)
            fitting.append(value)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            fitting.append(None)
            errors[index] = errors[index] or f"column {name} is {kind}, got {value!r:.60}"
    return pa.array(fitting, kind)
