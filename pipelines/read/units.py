"""What is to be done: every shard cut into units, the pieces of work that are one output file each."""

import base64
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa

from pipelines.read.shard import Shard
from pipelines.read.shards import Inspection
from pipelines.storage.file_info import FileInfo


@dataclass(frozen=True)
class Unit:
    """One piece of work and one output file.

    Attributes:
        shard, index: which input file, and which piece of it, both from 0.
        start, num_rows: its rows within the shard.
        first_byte, last_byte: not of Parquet: where its rows begin and end in the file.
        num_shards: so many input files, from `shard` on, are in it whole, if more than one.
    """

    shard: int
    index: int
    start: int
    num_rows: int
    first_byte: int = 0
    last_byte: int = 0
    num_shards: int = 1

    @property
    def file_name(self) -> str:
        """Name of the output file within data/."""
        return unit_file_name(self.shard, self.index)


@dataclass(frozen=True)
class Plan:
    """All units of a run, and what they are cut from."""

    shards: tuple[Shard, ...]
    units: tuple[Unit, ...]
    schema: pa.Schema

    @property
    def num_rows(self) -> int:
        """Rows in all units."""
        return sum(unit.num_rows for unit in self.units)

    @property
    def skipped_inputs(self) -> list[dict[str, str]]:
        """Shards that were left out, as url and reason."""
        return [{"url": s.file.url, "reason": s.skipped} for s in self.shards if s.skipped is not None]

    def shards_of(self, unit: Unit) -> tuple[Shard, ...]:
        """The input files of a unit."""
        return self.shards[unit.shard : unit.shard + unit.num_shards]

    def with_files(self, files: Iterable[FileInfo]) -> "Plan":
        """The plan with what these say of its files."""
        known = {file.url: file for file in files}
        shards = [replace(shard, file=known.get(shard.file.url, shard.file)) for shard in self.shards]
        return replace(self, shards=tuple(shards))

    def to_json(self) -> str:
        """The plan as text; the schema in Arrow's own form."""
        schema = base64.b64encode(self.schema.serialize().to_pybytes()).decode()
        tree = {"shards": [asdict(s) for s in self.shards], "schema": schema}
        tree["units"] = [list(asdict(unit).values()) for unit in self.units]
        return json.dumps(tree)

    @staticmethod
    def from_json(text: str | bytes) -> "Plan":
        """Inverse of `to_json`."""
        tree = json.loads(text)
        shards = tuple(_shard(entry) for entry in tree["shards"])
        units = tuple(Unit(*entry) for entry in tree["units"])
        return Plan(shards, units, pa.ipc.read_schema(pa.py_buffer(base64.b64decode(tree["schema"]))))


def unit_file_name(shard: int, index: int) -> str:
    """Name of a unit's output file within data/."""
    return f"part-{shard:05}-{index:05}.parquet"


def plan_units(inspection: Inspection, unit_rows: int, *, pack: bool = False) -> Plan:
    """Cut every shard into units of at most `unit_rows` rows, at row groups where that is possible.

    Args:
        pack: join small shards to units of so many rows.
    """
    units = [
        Unit(shard.index, index, start, rows, *_byte_range(shard, index))
        for shard in inspection.shards
        for index, (start, rows) in enumerate(_ranges(_pieces(shard, unit_rows)))
    ]
    if pack:
        units = [*_packed(units, inspection, unit_rows)]
    return Plan(inspection.shards, tuple(units), inspection.schema)


def _packed(units: Sequence[Unit], inspection: Inspection, unit_rows: int) -> Iterator[Unit]:
    """Units, those of small files that follow each other and are alike joined to one."""
    held: Unit | None = None
    for unit in units:
        is_whole = unit.num_rows == inspection.shards[unit.shard].num_rows
        fits = held is not None and held.num_rows + unit.num_rows <= unit_rows
        if held and fits and is_whole and inspection.kinds[held.shard] == inspection.kinds[unit.shard]:
            count = unit.shard - held.shard + 1
            held = Unit(held.shard, 0, 0, held.num_rows + unit.num_rows, num_shards=count)
            continue
        if held:
            yield held
        held = unit if is_whole else None
        if not is_whole:
            yield unit
    if held:
        yield held


def _pieces(shard: Shard, unit_rows: int) -> Iterator[int]:
    """Row counts of a shard's units, in order."""
    if shard.format != "parquet":
        for start in range(0, shard.num_rows, unit_rows):
            yield min(unit_rows, shard.num_rows - start)
        return
    held = 0
    for rows in shard.row_groups:
        if held and held + rows > unit_rows:
            yield held
            held = 0
        if rows > unit_rows:
            yield from _even_pieces(rows, unit_rows)
        else:
            held += rows
    if held:
        yield held


def _even_pieces(rows: int, unit_rows: int) -> list[int]:
    """Pieces of a row group larger than a unit, as equal as they can be."""
    count = -(-rows // unit_rows)
    return [rows // count + (i < rows % count) for i in range(count)]


def _ranges(pieces: Iterator[int]) -> Iterator[tuple[int, int]]:
    start = 0
    for rows in pieces:
        yield start, rows
        start += rows


def _byte_range(shard: Shard, index: int) -> tuple[int, int]:
    return (shard.offsets[index], shard.offsets[index + 1]) if shard.offsets else (0, 0)


def _shard(entry: dict[str, Any]) -> Shard:
    entry["file"] = FileInfo(**entry["file"])
    entry["row_groups"], entry["offsets"] = tuple(entry["row_groups"]), tuple(entry["offsets"])
    return Shard(**entry)
