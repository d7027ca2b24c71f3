"""Writing units: one file each, put in one step, which is the commit."""

import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.generate.columns import ENGINE, OVERWRITTEN, SHARD, UNIT, UNREADABLE, TableLayout
from pipelines.generate.ledger import unit_file_name
from pipelines.storage import join, open_file, put
from pipelines.storage_config import StorageConfig, use_storage

FOOTER_KEY = b"orthrus"
SUMMARY = "summary"


def commit_unit(
    table: pa.Table,
    data_url: str,
    layout: TableLayout,
    fingerprint: str,
    storage: StorageConfig | None = None,
    on_bad_shard: str = "skip",
) -> pa.Table:
    """Write a unit's file and pass on one row that sums it up; the last dataset stage.

    Args:
        table: as `generate.GenerateActor` makes it.
        storage: how this process reaches `data_url`; None: as it does already.
        on_bad_shard: "skip" writes a unit whose input is damaged as error rows, "fail" leaves it undone.
    Returns:
        One row with SUMMARY: json of {shard, unit, rows, actor, load_s, engine, counts}; of a unit
        that was left undone {shard, unit, rows: 0, unreadable: why}.
    """
    if storage is not None:
        use_storage(storage)
    shard, index = (table.column(name)[0].as_py() for name in (SHARD, UNIT))
    if (fault := _input_fault(table, on_bad_shard)) is not None:
        return pa.table(
            {SUMMARY: [json.dumps({"shard": shard, "unit": index, "rows": 0, "unreadable": fault})]}
        )
    facts = json.loads(table.column(ENGINE)[0].as_py())
    footer = {"fingerprint": fingerprint, "shard": shard, "unit": index, "counts": facts["counts"]}
    output = table.select(layout.output.names).cast(layout.output)
    output = output.replace_schema_metadata({FOOTER_KEY: json.dumps(footer).encode()})
    put(join(data_url, unit_file_name(shard, index)), _to_parquet(output))
    summary = {"shard": shard, "unit": index, "rows": table.num_rows, **facts}
    return pa.table({SUMMARY: [json.dumps(summary)]})


def _input_fault(table: pa.Table, on_bad_shard: str) -> str | None:
    """Why a unit cannot be done: its input is damaged and the config says fail, or it was overwritten."""
    error = table.column("error")[0].as_py()
    if error is None or not error.startswith((UNREADABLE, OVERWRITTEN)):
        return None
    return None if error.startswith(UNREADABLE) and on_bad_shard == "skip" else error


def read_footer(url: str) -> dict[str, Any]:
    """Row count and counts of a unit's file: {rows, counts}, without reading its rows."""
    with open_file(url) as handle:
        metadata = pq.read_metadata(handle)
    stored = json.loads((metadata.metadata or {}).get(FOOTER_KEY, b"{}"))
    return {"rows": metadata.num_rows, "counts": stored.get("counts", {})}


def _to_parquet(table: pa.Table) -> bytes:
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue().to_pybytes()
