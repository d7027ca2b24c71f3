"""Writing units: one file each, put in one step, which is the commit."""

import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.generate.columns import ENGINE, SHARD, UNIT, TableLayout
from pipelines.generate.ledger import unit_file_name
from pipelines.storage import join, open_file, put

FOOTER_KEY = b"orthrus"
SUMMARY = "summary"
# What a unit's file says of itself, so that a report of all sessions reads no rows; audit: of earlier units.
FOOTER_FACTS = ("counts", "session", "began", "at", "positions", "lengths", "groups", "errors", "audit")


def commit_unit(table: pa.Table, data_url: str, layout: TableLayout, fingerprint: str) -> pa.Table:
    """Write a unit's file and pass on one row that sums it up; the last dataset stage.

    Args:
        table: as `generate.GenerateActor` makes it.
    Returns:
        One row with SUMMARY: json of {shard, unit, rows, actor, load_s, engine, counts}.
    """
    shard, index = (table.column(name)[0].as_py() for name in (SHARD, UNIT))
    facts = json.loads(table.column(ENGINE)[0].as_py())
    footer = {"fingerprint": fingerprint, "shard": shard, "unit": index}
    footer |= {name: facts[name] for name in FOOTER_FACTS if name in facts}
    output = table.select(layout.output.names).cast(layout.output)
    output = output.replace_schema_metadata({FOOTER_KEY: json.dumps(footer).encode()})
    put(join(data_url, unit_file_name(shard, index)), _to_parquet(output))
    summary = {"shard": shard, "unit": index, "rows": table.num_rows, **facts}
    return pa.table({SUMMARY: [json.dumps(summary)]})


def read_footer(url: str) -> dict[str, Any]:
    """Row count and FOOTER_FACTS of a unit's file: {rows, counts, ...}, without reading its rows."""
    with open_file(url) as handle:
        metadata = pq.read_metadata(handle)
    stored = json.loads((metadata.metadata or {}).get(FOOTER_KEY, b"{}"))
    facts = {name: stored[name] for name in FOOTER_FACTS if name in stored}
    return {"counts": {}, **facts, "rows": metadata.num_rows}


def _to_parquet(table: pa.Table) -> bytes:
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue().to_pybytes()
