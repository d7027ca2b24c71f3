"""The last check of a run: what its files say about their rows adds up."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pipelines.generate.damage import checked_footers
from pipelines.generate.ledger import Ledger, check_counts
from pipelines.generate.report.sums import RunSums
from pipelines.generate.unit_file import read_footer
from pipelines.generate.units import Unit
from pipelines.storage import join, list_directory, map_files, remove

UNITS_AT_ONCE = 512  # footers that are in memory together


def settle(ledger: Ledger, units: Sequence[Unit], fingerprint: str) -> RunSums:
    """Check the files of committed units against each other and against the plan, and add them up.

    A side file that no footer asks for is of an attempt that was not committed; it is removed.

    Raises:
        OrthrusError: files that are damaged or not of this run, or numbers that do not add up.
    """
    sums = RunSums()
    manifest = ledger.manifest() or {}
    earlier = manifest.get("earlier_fingerprints", ())
    fingerprints = {fingerprint, manifest.get("fingerprint", fingerprint), *earlier}
    found = {name for name in list_directory(ledger.dropped_url) if not name.startswith(".")}
    for first in range(0, len(units), UNITS_AT_ONCE):
        chunk = units[first : first + UNITS_AT_ONCE]
        footers = checked_footers(ledger, chunk, fingerprints)
        check_counts(chunk, footers, _side_files(ledger, chunk, footers, found))
        for footer in footers:
            sums.add(footer)
    return sums


def _side_files(
    ledger: Ledger, units: Sequence[Unit], footers: Sequence[Mapping[str, Any]], found: Collection[str]
) -> dict[str, int]:
    """Rows of each side file that is asked for, by name; `found` are those that are there."""
    asked = {u.file_name for u, f in zip(units, footers, strict=True) if f["counts"].get("dropped")}
    there = {unit.file_name for unit in units}.intersection(found)
    for name in there - asked:
        remove(join(ledger.dropped_url, name))
    names = sorted(asked & there)
    counted = map_files(read_footer, [join(ledger.dropped_url, name) for name in names])
    return {name: footer["rows"] for name, footer in zip(names, counted, strict=True)}
