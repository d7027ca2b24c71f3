"""Finished units that have error rows."""

from collections.abc import Sequence

from pipelines.generate.ledger.damage import read_unit_footer
from pipelines.generate.ledger.ledger import Ledger
from pipelines.read.units import Plan, Unit
from pipelines.storage.files import map_files


def failed_units(ledger: Ledger, plan: Plan, remaining: Sequence[Unit]) -> list[Unit]:
    """Finished units with error rows, by their footers.

    Args:
        remaining: units that are not finished.
    Raises:
        DamagedUnitError: a file that cannot be read.
    """
    undone = {unit.file_name for unit in remaining}
    finished = [unit for unit in plan.units if unit.file_name not in undone]
    looked = map_files(read_unit_footer, [ledger.unit_url(unit) for unit in finished])
    return [
        u for u, (footer, _) in zip(finished, looked, strict=True) if footer.get("counts", {}).get("errors")
    ]
