"""Reading units: one read task = one unit = one block.

Ray's own `read_parquet` packs many small files into one block, so that one actor gets all the work.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from pipelines.generate.columns import OVERWRITTEN, ROW, ROW_ERROR, SHARD, UNIT, UNREADABLE, TableLayout
from pipelines.generate.input_file import (
    CHANGED,
    BadFileError,
    ChangedFileError,
    WatchedFile,
    read_file,
    uncompressed,
)
from pipelines.generate.shards import Shard, jsonl_rows
from pipelines.generate.units import Plan, Unit
from pipelines.storage_config import StorageConfig, use_storage


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
        shard = self._plan.shards[unit.shard]
        size = self._bytes(unit)
        metadata = BlockMetadata(
            num_rows=unit.num_rows, size_bytes=size, input_files=(shard.file.url,), exec_stats=None
        )
        return ReadTask(partial(_blocks, shard, unit, self._types, self._storage), metadata)

    def _bytes(self, unit: Unit) -> int:
        shard = self._plan.shards[unit.shard]
        return shard.file.size * unit.num_rows // max(1, shard.num_rows)


def column_types(plan: Plan, layout: TableLayout) -> pa.Schema:
    """Columns to read, with the types that all shards are brought to."""
    return pa.schema([plan.schema.field(name).remove_metadata() for name in layout.read])


def read_unit(shard: Shard, unit: Unit, types: pa.Schema) -> pa.Table:
    """Read one unit's rows.

    Args:
        types: the columns wanted; a column that this shard lacks comes back null.
    Returns:
        A table of `unit.num_rows` rows: the columns wanted, then SHARD, UNIT, ROW and ROW_ERROR (null, or why
        a jsonl row does not fit its columns; it then has nulls in those). If the shard is damaged here, all
        rows have nulls and an error that begins with UNREADABLE; if it has changed, with OVERWRITTEN.
    """
    columns, errors = _read(shard, unit, types)
    columns[SHARD] = pa.repeat(pa.scalar(unit.shard, pa.int32()), unit.num_rows)
    columns[UNIT] = pa.repeat(pa.scalar(unit.index, pa.int32()), unit.num_rows)
    columns[ROW] = pa.array(range(unit.start, unit.start + unit.num_rows), pa.int64())
    columns[ROW_ERROR] = pa.array(errors, pa.string())
    return pa.table(columns)


def _read(shard: Shard, unit: Unit, types: pa.Schema) -> tuple[dict[str, Any], list[str | None]]:
    """Columns and errors of a unit's rows; of a damaged one, nulls and the damage."""
    try:
        if shard.format == "parquet":
            columns = read_file(shard.file, partial(_read_parquet, shard, unit, types), cache="none")
            errors: list[str | None] = [None] * unit.num_rows
        else:
            columns, errors = read_file(shard.file, partial(_read_jsonl, shard, unit, types))
        if len(errors) != unit.num_rows or any(len(column) != unit.num_rows for column in columns.values()):
            raise ChangedFileError(CHANGED)
        return columns, errors
    except BadFileError as error:
        rows = f"rows {unit.start} to {unit.start + unit.num_rows - 1}"
        prefix = OVERWRITTEN if isinstance(error, ChangedFileError) else UNREADABLE
        fault = f"{prefix}{shard.file.url}, unit {unit.index} ({rows}): {error}"
    nothing = {
        name: pa.nulls(unit.num_rows, kind) for name, kind in zip(types.names, types.types, strict=True)
    }
    return nothing, [fault] * unit.num_rows


def _blocks(shard: Shard, unit: Unit, types: pa.Schema, storage: StorageConfig | None) -> list[pa.Table]:
    if storage is not None:
        use_storage(storage)
    return [read_unit(shard, unit, types)]


def _read_parquet(shard: Shard, unit: Unit, types: pa.Schema, handle: WatchedFile) -> dict[str, Any]:
    groups, skip = _row_groups(shard, unit)
    file = pq.ParquetFile(handle, pre_buffer=True, page_checksum_verification=True)
    schema = pa.schema([column for column in file.schema_arrow if column.name in types.names])
    batches = file.iter_batches(batch_size=max(1024, unit.num_rows), row_groups=groups, columns=schema.names)
    table = pa.Table.from_batches(_take(batches, skip, unit.num_rows), schema if schema.names else None)
    return {
        name: table.column(name).cast(kind) if name in schema.names else pa.nulls(unit.num_rows, kind)
        for name, kind in zip(types.names, types.types, strict=True)
    }


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


def _read_jsonl(
    shard: Shard, unit: Unit, types: pa.Schema, handle: WatchedFile
) -> tuple[dict[str, Any], list[str | None]]:
    with uncompressed(handle, shard.file.url) as stream:
        stream.seek(unit.first_byte)
        content = stream.read(unit.last_byte - unit.first_byte)
    rows = list(jsonl_rows([line for line in content.split(b"\n") if line.strip()]))
    errors = [row if isinstance(row, str) else None for row in rows]
    dicts = [row if isinstance(row, dict) else {} for row in rows]
    columns: dict[str, Any] = {
        name: _column(name, kind, [row.get(name) for row in dicts], errors)
        for name, kind in zip(types.names, types.types, strict=True)
    }
    return columns, errors


def _column(name: str, kind: pa.DataType, values: list[Any], errors: list[str | None]) -> pa.Array:
    """Values as an array; those that do not fit become null and get an error, in place."""
    try:
        return pa.array(values, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeEncodeError, OverflowError):
        pass
    fitting: list[Any] = []
    for index, value in enumerate(values):
        try:
            pa.array([value], kind)
            fitting.append(value)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            fitting.append(None)
            errors[index] = errors[index] or f"column {name} is {kind}, got {value!r:.60}"
        except UnicodeEncodeError:
            fitting.append(None)
            errors[index] = errors[index] or f"column {name} has text that cannot be encoded as UTF-8"
    return pa.array(fitting, kind)
