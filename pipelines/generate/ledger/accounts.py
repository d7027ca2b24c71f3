"""The last check of a run: what its files say about their rows adds up."""

from collections.abc import Sequence

from pipelines.generate.ledger.damage import checked_footers
from pipelines.generate.ledger.ledger import Ledger, check_counts
from pipelines.generate.write.sums import RunSums
from pipelines.read.units import Unit
from pipelines.storage.files import join, list_directory, remove

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
        dropped = {
            u.file_name: f["side_rows"] for u, f in zip(chunk, footers, strict=True) if "side_rows" in f
        }
        check_counts(chunk, footers, dropped)
        for name in found.intersection(unit.file_name for unit in chunk) - dropped.keys():
            remove(join(ledger.dropped_url, name))
        for footer in footers:
            sums.add(footer)
    return sums
