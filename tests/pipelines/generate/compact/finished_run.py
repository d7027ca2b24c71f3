"""Finished runs without an engine: units, plan, manifest and _SUCCESS as the generate job writes them."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.generate.config.output import OutputConfig
from pipelines.generate.ledger.ledger import Ledger
from pipelines.generate.write.unit_file import write_unit_file
from pipelines.read.shards import Shard
from pipelines.read.units import Plan, Unit
from pipelines.storage.file_info import FileInfo

LANGUAGES = ["de", "en/us ü", None]


def finished_run(url: str, num_units: int = 4, unit_rows: int = 5) -> Ledger:
    """A run of numbered rows with a column of languages; the third unit is empty."""
    ledger = Ledger(url)
    shard = Shard(0, FileInfo("in.parquet", 1), "parquet", num_units * unit_rows)
    units = tuple(Unit(0, n, n * unit_rows, unit_rows) for n in range(num_units))
    plan = Plan((shard,), units, pa.schema([("language", pa.string())]))
    manifest: dict[str, Any] = {"identity": {}, "inputs": [], "fingerprint": "f00"}
    ledger.start(plan, manifest)
    for unit in units:
        numbers = [] if unit.index == 2 else range(unit.start, unit.start + unit_rows)
        table = pa.table(
            {
                "id": pa.array([f"r{n}" for n in numbers], pa.string()),
                "language": pa.array([LANGUAGES[n % 3] for n in numbers], pa.string()),
                "../up": pa.nulls(len(numbers), pa.string()),
                "number": pa.array(numbers, pa.int32()),
                "kind": pa.array([f"kind {n % 2}" for n in numbers], pa.string()).dictionary_encode(),
            }
        )
        footer = {"fingerprint": "f00", "shard": 0, "unit": unit.index, "counts": {"rows": len(numbers)}}
        write_unit_file(ledger.unit_url(unit), table, footer)
    ledger.finish({"status": "done"}, "")
    return ledger


def output_of(ledger: Ledger, **compact: Any) -> OutputConfig:
    """A section `output` of that run."""
    return OutputConfig.model_validate({"path": ledger.url, "compact": compact})


def contents(directory: Path) -> dict[str, bytes]:
    """Every file below a directory."""
    return {
        str(file.relative_to(directory)): file.read_bytes() for file in directory.rglob("*") if file.is_file()
    }
