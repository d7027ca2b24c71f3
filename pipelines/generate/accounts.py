"""The last check of a run: what its files say about their rows adds up."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.generate.ledger import Ledger, Unit, check_counts
from pipelines.generate.unit_file import read_footer
from pipelines.storage import join, list_directory, map_files, remove


def settle(ledger: Ledger, units: Sequence[Unit]) -> list[dict[str, int]]:
    """Check the files of committed units against each other and against the plan.

    A side file that no footer asks for is of an attempt that was not committed; it is removed.

    Returns:
        The counts of each unit.
    Raises:
        OrthrusError: numbers that do not add up.
    """
    footers = map_files(read_footer, [ledger.unit_url(unit) for unit in units])
    dropped = _side_files(ledger, units, footers)
    check_counts(units, footers, dropped)
    return [footer["counts"] for footer in footers]


def _side_files(
    ledger: Ledger, units: Sequence[Unit], footers: Sequence[Mapping[str, Any]]
) -> dict[str, int]:
    """Rows of each side file that is asked for, by name."""
    asked = {u.file_name for u, f in zip(units, footers, strict=True) if f["counts"].get("dropped")}
    found = {name for name in list_directory(ledger.dropped_url) if not name.startswith(".")}
    for name in found & {unit.file_name for unit in units} - asked:
        remove(join(ledger.dropped_url, name))
    names = sorted(asked & found)
    counted = map_files(read_footer, [join(ledger.dropped_url, name) for name in names])
    return {name: footer["rows"] for name, footer in zip(names, counted, strict=True)}
