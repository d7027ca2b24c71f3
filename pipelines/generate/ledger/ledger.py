"""What is to be done, what is done, and for which run: the output directory is the ledger.

A unit is a range of rows of one shard. Its output file, put in one atomic step, is its commit; a run resumes
by listing those files. Nothing else says that a unit is done.
"""

import hashlib
import json
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pyarrow as pa

from orthrus_core.errors import ConfigError, OrthrusError
from pipelines.generate.ledger.input_changes import changed_inputs, recognise
from pipelines.read.units import Plan, Unit
from pipelines.storage.config import redact
from pipelines.storage.file_info import FileInfo
from pipelines.storage.files import join, list_directory, put, read_bytes, remove, sweep

DATA = "data"
DROPPED = "dropped"
RUN = "_run"
SUCCESS = "_SUCCESS"

logger = logging.getLogger(__name__)


class Ledger:
    """The output directory of one run: `data/`, `dropped/`, `_run/` (manifest.json, plan.json, _SUCCESS)."""

    def __init__(self, url: str):
        self.url = url
        self.data_url = join(url, DATA)
        self.dropped_url = join(url, DROPPED)
        self.run_url = join(url, RUN)
        self.manifest_url = join(self.run_url, "manifest.json")

    def open(
        self,
        identity: Mapping[str, Any],
        listing: Sequence[FileInfo],
        may_differ: Collection[str] = (),
        *,
        on_changed: str = "fail",
    ) -> Plan | None:
        """Check that this output belongs to this run, if it belongs to any.

        Args:
            identity: everything that decides the rows' content, flat: name to value.
            listing: the input files as they are now.
            may_differ: names of the identity that may have another value than in the stored manifest.
            on_changed: "accept" takes a file of the same size for the one that was planned.
        Returns:
            The stored plan with the files as they are now, or None where the run is new.
        Raises:
            ConfigError: another run's output, changed inputs, or files of unknown origin.
        """
        manifest = self.manifest()
        if manifest is None:
            found = [name for name in list_directory(self.data_url) if not name.startswith(".")]
            if found:
                raise ConfigError(
                    f"output.path {self.url} has {len(found)} files in data/ but no _run/manifest.json; "
                    "choose another output.path"
                )
            return None
        changed = differences(manifest["identity"], identity, may_differ)
        stored = [FileInfo(**entry) for entry in manifest["inputs"]]
        now = recognise(stored, listing)
        other, replaced = changed_inputs(stored, now)
        if replaced and on_changed == "accept":
            logger.warning("accepted as unchanged (input.on_changed): %s", _first(replaced))
            replaced = []
        if changed or other or replaced:
            accept = "; or, if the files have the same rows, set input.on_changed: accept" if replaced else ""
            raise ConfigError(
                f"output.path {self.url} belongs to another run: {_first([*changed, *other, *replaced])}; "
                f"restore these or choose another output.path{accept}"
            )
        plan = self._stored_plan()
        return None if plan is None else plan.with_files(now)

    def _stored_plan(self) -> Plan | None:
        """The plan as stored; None where it is missing or damaged, so that it is made again, the same."""
        stored = read_bytes(join(self.run_url, "plan.json"))
        try:
            return None if stored is None else Plan.from_json(stored)
        except (ValueError, KeyError, TypeError, pa.ArrowException) as error:
            logger.warning("%s/plan.json is damaged and made again: %s", self.run_url, error)
            return None

    def start(self, plan: Plan, manifest: Mapping[str, Any]) -> None:
        """Store the plan, then the manifest, and clear what a killed run left half written.

        An output that was complete, and has lost a file since, is not complete until it is finished again.
        """
        remove(join(self.run_url, SUCCESS))
        put(join(self.run_url, "plan.json"), plan.to_json().encode())
        self.write_manifest(manifest)
        sweep(self.data_url)
        sweep(self.dropped_url)
        sweep(self.run_url)

    def manifest(self) -> dict[str, Any] | None:
        """The stored manifest, if there is one.

        Raises:
            ConfigError: it is damaged, so that nobody can say which run the output belongs to.
        """
        url = self.manifest_url
        stored = read_bytes(url)
        if stored is None:
            return None
        try:
            tree = json.loads(stored)
            return {**tree, "identity": tree["identity"], "inputs": tree["inputs"]}
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"output.path: {url} is damaged ({type(error).__name__}: {error}); restore it from a copy, "
                "or choose another output.path"
            ) from None

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Store the manifest."""
        put(self.manifest_url, json.dumps(manifest, indent=2, default=str).encode())

    def remaining(self, plan: Plan) -> list[Unit]:
        """Units without an output file.

        Raises:
            ConfigError: data/ holds a file that is no unit of the plan; readers would take it for data.
        """
        sizes = {n: size for n, size in list_directory(self.data_url).items() if not n.startswith(".")}
        unknown = sorted(sizes.keys() - {unit.file_name for unit in plan.units})
        if unknown:
            raise ConfigError(
                f"{self.data_url} holds files of no unit: {', '.join(unknown[:5])}; remove them"
            )
        return [unit for unit in plan.units if not sizes.get(unit.file_name)]  # an empty file is no unit

    def unit_url(self, unit: Unit) -> str:
        """Where a unit is written."""
        return join(self.data_url, unit.file_name)

    def finished_report(self) -> dict[str, Any] | None:
        """The stored report of a complete run, if it is one and has all its files still."""
        if read_bytes(join(self.run_url, SUCCESS)) is None:
            return None
        if changes := self.changes_since_success():
            logger.warning("%s was complete and is no more: %s", self.url, "; ".join(changes[:5]))
            return None
        stored = read_bytes(join(self.run_url, "report.json"))
        try:
            return None if stored is None else json.loads(stored)
        except ValueError as error:
            logger.warning("%s/report.json is damaged and made again: %s", self.run_url, error)
            return None

    def write_report(self, report: Mapping[str, Any]) -> None:
        """Store the report."""
        text = redact(json.dumps(report, indent=2, default=str))  # it may quote a store's error
        put(join(self.run_url, "report.json"), text.encode())

    def reopen(self) -> None:
        """Mark the run as not complete, or not any more."""
        remove(join(self.run_url, SUCCESS))

    def finish(self, report: Mapping[str, Any], card: str) -> None:
        """Store the report and the data card, and mark the run as complete."""
        self.write_report(report)
        put(join(self.url, "README.md"), card.encode())
        put(join(self.run_url, SUCCESS), json.dumps(self._files(), indent=1).encode())

    def changes_since_success(self) -> list[str]:
        """How data/ and dropped/ differ from what `_SUCCESS` says of names and sizes, where it says any."""
        stored = read_bytes(join(self.run_url, SUCCESS))
        if not stored:  # an empty one is an earlier version's
            return []
        try:
            before, now = dict(json.loads(stored)), self._files()
        except (ValueError, TypeError):
            return [f"{RUN}/{SUCCESS} is damaged"]
        return [
            f"{name} is gone"
            if name not in now
            else f"{name} is new"
            if name not in before
            else f"{name} has {now[name]} bytes of {before[name]}"
            for name in sorted(before.keys() | now.keys())
            if before.get(name) != now.get(name)
        ]

    def _files(self) -> dict[str, int]:
        """Path below the output, and size, of every unit's file and side file."""
        return {
            f"{directory}/{name}": size
            for directory in (DATA, DROPPED)
            for name, size in sorted(list_directory(join(self.url, directory)).items())
            if not name.startswith(".")
        }


def check_counts(
    units: Sequence[Unit], footers: Sequence[Mapping[str, Any]], dropped: Mapping[str, int]
) -> None:
    """Every input row is in its unit's file or in its side file, and the footers say so.

    Args:
        footers: of each unit's file: {rows, counts}.
        dropped: rows of each side file that its unit's footer asks for, by name.
    Raises:
        OrthrusError: naming units whose numbers do not add up.
    """
    wrong = []
    for unit, footer in zip(units, footers, strict=True):
        counts = footer["counts"]
        for found, expected, what in (
            (counts.get("rows_in", footer["rows"]), unit.num_rows, "input rows"),
            (footer["rows"], counts.get("rows", footer["rows"]), "rows"),
            (dropped.get(unit.file_name, 0), counts.get("dropped", 0), "dropped rows"),
        ):
            if found != expected:
                wrong.append(f"{unit.file_name} has {found} {what} of {expected}")
    if wrong:
        raise OrthrusError(f"rows out differ from rows in: {'; '.join(wrong[:5])}")


def fingerprint(identity: Mapping[str, Any]) -> str:
    """Short hash of a run's identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:16]


def differences(
    stored: Mapping[str, Any], now: Mapping[str, Any], may_differ: Collection[str] = ()
) -> list[str]:
    """`name was X, is Y` for each name with another value, but for those that may differ."""
    now = json.loads(json.dumps(now, default=str))  # tuples to lists, as the stored side went through json
    return [
        f"{name} was {json.dumps(stored.get(name))}, is {json.dumps(now.get(name))}"
        for name in sorted({*stored, *now} - set(may_differ))
        if stored.get(name) != now.get(name)
    ]


def _first(lines: Sequence[str], most: int = 5) -> str:
    return ", ".join([*lines[:most], *([f"and {len(lines) - most} more"] if len(lines) > most else [])])
