"""A run looked at from outside, in progress or ended: from its plan, unit files, lock and report."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow.parquet as pq

from orthrus_core.errors import ConfigError
from pipelines.cluster.lock import watch_owner
from pipelines.generate.ledger.damage import (
    DamagedUnitError,
    ForeignUnitError,
    checked_footer,
    verify_unit,
)
from pipelines.generate.ledger.ledger import SUCCESS, Ledger
from pipelines.generate.write.unit_facts import add_into
from pipelines.read.units import Plan, Unit
from pipelines.storage.file_info import FileInfo
from pipelines.storage.files import absolute, join, list_directory, map_files, open_file, read_bytes
from pipelines.storage.listing import list_tree

RECENT_S = 600.0  # speed is that of the units committed in the last so many seconds of the run


@dataclass(frozen=True)
class RunState:
    """How a run stands.

    Attributes:
        status: done, running, interrupted, failed; damaged: was done, and its files are not what they were;
            or stopped: no driver is alive and none said why.
        driver: alive, dead, none (no lock), or unknown (another machine's, and it was not watched).
        units, rows: planned. rows_done counts input rows of committed units.
        counts: sums over the footers of committed units.
        rows_per_s, tokens_per_s: lately; None with fewer than two units.
        failed_units: committed units with error rows, by url, with their number; what --only-failed replaces.
        report: `_run/report.json`, if there is one.
        faults: what is wrong with files of committed units, or with those of a run that was done.
        rename: output columns that have another name in the files.
    """

    url: str
    fingerprint: str
    status: str
    driver: str
    units: int
    units_done: int
    rows: int
    rows_done: int
    counts: dict[str, int] = field(default_factory=dict)
    rows_per_s: float | None = None
    tokens_per_s: float | None = None
    failed_units: dict[str, int] = field(default_factory=dict)
    report: dict[str, Any] | None = None
    faults: list[str] = field(default_factory=list)
    rename: dict[str, str] = field(default_factory=dict)

    @property
    def errors(self) -> int:
        """Error rows in committed units: as many as --only-failed would run again."""
        return self.counts.get("errors", 0)

    @property
    def seconds_left(self) -> float | None:
        """At the speed of late; None when it is not running or too young."""
        if self.status != "running" or not self.rows_per_s:
            return None
        return (self.rows - self.rows_done) / self.rows_per_s

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values, for json."""
        return asdict(self) | {"errors": self.errors, "seconds_left": self.seconds_left}


def inspect_run(path: str, *, watch_s: float = 0.0, verify: bool = False) -> RunState:
    """Look at a run; reads the footer of every committed unit, and changes nothing.

    Args:
        path: its output.path.
        watch_s: how long to watch the heartbeat of a driver on another machine.
        verify: read the files of committed units to the last page, against their checksums.
    Raises:
        ConfigError: there is no run.
    """
    ledger = Ledger(absolute(path))
    manifest = ledger.manifest()
    stored = read_bytes(join(ledger.run_url, "plan.json"))
    if manifest is None or stored is None:
        raise ConfigError(f"no run at {path}: it has no _run/manifest.json and _run/plan.json")
    plan = Plan.from_json(stored)
    files = _unit_files(ledger, plan)
    committed = [unit for unit in plan.units if unit.file_name in files]
    footers, faults = _footers(ledger, committed, manifest, verify=verify)
    faults = [*ledger.changes_since_success(), *faults]
    files = {name: files[name] for name in footers}
    is_complete = SUCCESS in list_directory(ledger.run_url)
    driver = watch_owner(ledger.run_url, watch_s=watch_s)
    report = read_bytes(join(ledger.run_url, "report.json"))
    parsed = None if report is None else json.loads(report)
    rows_of = {unit.file_name: unit.num_rows for unit in plan.units}
    counts: dict[str, int] = {}
    for footer in footers.values():
        add_into(counts, footer["counts"])
    rows_per_s, tokens_per_s = _speed(files, footers, rows_of)
    return RunState(
        url=ledger.url,
        fingerprint=manifest["fingerprint"],
        status="damaged" if is_complete and faults else _status(driver, parsed, is_complete=is_complete),
        driver=driver,
        units=len(plan.units),
        units_done=len(files),
        rows=plan.num_rows,
        rows_done=sum(rows_of[name] for name in files),
        counts=counts,
        rows_per_s=rows_per_s,
        tokens_per_s=tokens_per_s,
        failed_units={
            files[name].url: count
            for name, footer in footers.items()
            if (count := footer["counts"].get("errors", 0))
        },
        report=parsed,
        faults=faults,
        rename=manifest.get("config", {}).get("output", {}).get("rename", {}),
    )


def error_rows(state: RunState, limit: int) -> list[dict[str, str]]:
    """The first error rows in the order of the plan: {id, error} each; reads only units that have some."""
    rows: list[dict[str, str]] = []
    row_id, error = (state.rename.get(name, name) for name in ("id", "error"))
    for url in sorted(state.failed_units):
        if len(rows) >= limit:
            break
        with open_file(url) as handle:
            table = pq.read_table(handle, columns=[row_id, error]).rename_columns(["id", "error"])
        rows += [row for row in table.to_pylist() if row["error"] is not None]
    return rows[:limit]


def _unit_files(ledger: Ledger, plan: Plan) -> dict[str, FileInfo]:
    """Committed units: file name to what the storage says of it, in the order of the plan."""
    found = {info.url.rsplit("/", 1)[-1]: info for info in list_tree(ledger.data_url) if info.size}
    return {unit.file_name: found[unit.file_name] for unit in plan.units if unit.file_name in found}


def _footers(
    ledger: Ledger, units: Sequence[Unit], manifest: Mapping[str, Any], *, verify: bool
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Footers of committed units by file name, and what is wrong with the others."""
    fingerprints = {manifest["fingerprint"], *manifest.get("earlier_fingerprints", ())}

    def look(unit: Unit) -> dict[str, Any] | str:
        try:
            footer = checked_footer(ledger.unit_url(unit), unit, fingerprints)
            if verify:
                verify_unit(ledger, unit, footer)
            return footer
        except (DamagedUnitError, ForeignUnitError) as error:
            return str(error)

    looked = dict(zip((unit.file_name for unit in units), map_files(look, units), strict=True))
    footers = {name: found for name, found in looked.items() if isinstance(found, dict)}
    return footers, [found for found in looked.values() if isinstance(found, str)]


def _status(driver: str, report: Mapping[str, Any] | None, *, is_complete: bool) -> str:
    if is_complete:
        return str((report or {}).get("status", "done"))
    if driver in ("alive", "unknown"):
        return "running"
    # a report of an earlier run of the same output is overwritten by whatever ends the next one
    return str(report["status"]) if report is not None else "stopped"


def _speed(
    files: Mapping[str, FileInfo], footers: Mapping[str, Mapping[str, Any]], rows_of: Mapping[str, int]
) -> tuple[float | None, float | None]:
    """Rows and tokens per second over the units committed last, by the clock of their storage."""
    times = {name: info.mtime for name, info in files.items() if info.mtime is not None}
    if len(times) < 2:
        return None, None
    newest = max(times.values())
    recent = [name for name, at in times.items() if at >= newest - RECENT_S]
    first = min(recent, key=lambda name: times[name])
    seconds = newest - times[first]
    if seconds <= 0:
        return None, None
    counted = [name for name in recent if name != first]  # what was written after the first was there
    rows = sum(rows_of[name] for name in counted)
    tokens = sum(footers[name]["counts"].get("completion_tokens", 0) for name in counted)
    return rows / seconds, tokens / seconds
