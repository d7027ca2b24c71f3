"""The rows of a finished run, in their order."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orthrus_core.errors import ConfigError, OrthrusError
from pipelines.generate.ledger.ledger import SUCCESS, Ledger
from pipelines.generate.write.unit_file import read_unit_file
from pipelines.read.arrow_types import bring_all_to
from pipelines.read.units import Plan, Unit
from pipelines.storage.files import join, map_files, open_file, read_bytes

UNITS_AT_ONCE = 32  # read ahead of the writer, in threads


@dataclass(frozen=True)
class Source:
    """A finished run.

    Attributes:
        schema: of its files, without their footers.
        version: hash of what the run is and of its files: another one after a repair.
    """

    ledger: Ledger
    units: Sequence[Unit]
    schema: pa.Schema
    version: str

    def tables(self) -> Iterator[pa.Table]:
        """The rows of each unit, in the order of the plan.

        Raises:
            OrthrusError: a file that is damaged, or not that of its unit.
        """
        for first in range(0, len(self.units), UNITS_AT_ONCE):
            yield from map_files(self._read, self.units[first : first + UNITS_AT_ONCE])

    def check_unchanged(self) -> None:
        """Refuse to call a copy whole whose original was repaired meanwhile."""
        if _version(self.ledger) != self.version:
            raise OrthrusError(f"{self.ledger.url} has changed while it was read; start again")

    def _read(self, unit: Unit) -> pa.Table:
        url = self.ledger.unit_url(unit)
        try:
            table, footer = read_unit_file(url)
        except (pa.ArrowException, FileNotFoundError) as error:
            raise OrthrusError(f"{url}: {' '.join(str(error).split())}") from None
        said = [footer.get("shard"), footer.get("unit"), footer.get("counts", {}).get("rows")]
        if said != [unit.shard, unit.index, table.num_rows]:
            raise OrthrusError(f"{url} says shard, unit and rows {said}, and has {table.num_rows} rows")
        return bring_all_to(table, self.schema)


def open_source(url: str) -> Source:
    """A run that is finished.

    Raises:
        ConfigError: there is none, or its files are not those that it ended with.
    """
    ledger = Ledger(url)
    stored = read_bytes(join(ledger.run_url, "plan.json"))
    if stored is None or read_bytes(join(ledger.run_url, SUCCESS)) is None:
        raise ConfigError(f"output.path: {url} holds no finished run (no {SUCCESS}): jobs/generate.py first")
    if changes := ledger.changes_since_success():
        raise ConfigError(f"output.path: {url} was finished and has changed since: {'; '.join(changes[:5])}")
    units = Plan.from_json(stored).units
    with open_file(ledger.unit_url(units[0])) as handle:
        schema = pq.read_schema(handle).remove_metadata()
    return Source(ledger, units, schema, _version(ledger))


def _version(ledger: Ledger) -> str:
    manifest: dict[str, Any] = ledger.manifest() or {}
    success = read_bytes(join(ledger.run_url, SUCCESS))
    parts = (manifest.get("fingerprint"), manifest.get("repaired"), (success or b"").decode())
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
