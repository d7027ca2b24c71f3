"""The files of one unit: its rows in data/, those that filters took out in dropped/, and their footers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.generate.config.compact import Compression
from pipelines.read.columns import COUNTERS, TableLayout
from pipelines.storage.files import join, open_file, put

FOOTER_KEY = b"orthrus"
DEFAULT = Compression()
# What a unit's file says of itself, so that a report of all sessions reads no rows; audit: of earlier units.
FOOTER_FACTS = (
    "counts",
    "session",
    "began",
    "at",
    "positions",
    "lengths",
    "groups",
    "errors",
    "audit",
    "ids",
)


def write_unit_file(
    url: str, table: pa.Table, footer: Mapping[str, Any], compression: Compression = DEFAULT
) -> None:
    """Write a Parquet file in one atomic step, with facts about it in its footer."""
    buffer = pa.BufferOutputStream()
    table = table.replace_schema_metadata({FOOTER_KEY: json.dumps(footer).encode()})
    codec, level = compression.codec, compression.level
    pq.write_table(table, buffer, compression=codec, compression_level=level, write_page_checksum=True)
    put(url, buffer.getvalue().to_pybytes())


def read_footer(url: str) -> dict[str, Any]:
    """Row count and FOOTER_FACTS of a unit's file: {rows, counts, ...}, without reading its rows."""
    with open_file(url) as handle:
        metadata = pq.read_metadata(handle)
    stored = json.loads((metadata.metadata or {}).get(FOOTER_KEY, b"{}"))
    return {"counts": {}, **facts_of(stored), "rows": metadata.num_rows}


def facts_of(stored: Mapping[str, Any]) -> dict[str, Any]:
    """FOOTER_FACTS among what is stored."""
    return {name: stored[name] for name in FOOTER_FACTS if name in stored}


def count_rows(table: pa.Table) -> dict[str, int]:
    """Sums over the rows of a unit, as they stand in its footer and in the report.

    Args:
        table: the output columns of all rows that were made, dropped ones too.
    """
    counts = {name: pc.sum(table.column(name)).as_py() or 0 for name in COUNTERS}
    counts |= {"rows": table.num_rows, "errors": table.num_rows - table.column("error").null_count}
    for reason in table.column("finish_reason").to_pylist():
        counts[f"finish_{reason}"] = counts.get(f"finish_{reason}", 0) + 1
    return counts


def recount_rows(counts: Mapping[str, int], table: pa.Table) -> dict[str, int]:
    """Sums of a unit some of whose rows have become error rows."""
    kept = {name: count for name, count in counts.items() if not name.startswith("finish_")}
    return kept | count_rows(table)


@dataclass(frozen=True)
class UnitRows:
    """All rows of a finished unit in their order, dropped ones among the others.

    Attributes:
        table: the columns of the layout's `output`.
        places: of each row, the input row it belongs to, counted within the unit.
        facts: FOOTER_FACTS, as the footer says.
    """

    table: pa.Table
    places: tuple[int, ...]
    facts: Mapping[str, Any]


def read_unit_rows(data_url: str, dropped_url: str, name: str, layout: TableLayout) -> UnitRows | None:
    """Read a finished unit back.

    Args:
        layout: of the run.
    Returns:
        None where data/ and dropped/ do not belong together: a run was killed between the two.
    """
    table, stored = read_unit_file(join(data_url, name))
    dropped_at = stored.get("dropped_at", [])
    if dropped_at:
        try:
            side, side_stored = read_unit_file(join(dropped_url, name))
        except FileNotFoundError:
            return None
        if side_stored.get("dropped_at") != dropped_at or side.num_rows != len(dropped_at):
            return None
        table = _interleave(table, side.drop_columns(layout.dropped_reason), dropped_at)
    table = layout.from_file(table)
    places, place = [], -1
    for sample in table.column("sample").to_pylist():
        place += sample == 0
        places.append(place)
    return UnitRows(table, tuple(places), facts_of(stored))


def read_unit_file(url: str) -> tuple[pa.Table, dict[str, Any]]:
    """All rows of a file, checked against their checksums, and its footer."""
    with open_file(url) as handle:
        table = pq.ParquetFile(handle, page_checksum_verification=True).read()
    return table, json.loads((table.schema.metadata or {}).get(FOOTER_KEY, b"{}"))


def _interleave(kept: pa.Table, dropped: pa.Table, dropped_at: Sequence[int]) -> pa.Table:
    """Rows of both, the dropped ones at their places in the whole."""
    taken = {place: kept.num_rows + i for i, place in enumerate(dropped_at)}
    rest = iter(range(kept.num_rows))
    places = range(kept.num_rows + dropped.num_rows)
    order = [taken[place] if place in taken else next(rest) for place in places]
    both = pa.concat_tables([kept.replace_schema_metadata(), dropped.replace_schema_metadata()])
    return both.unify_dictionaries().take(pa.array(order, pa.int64()))
