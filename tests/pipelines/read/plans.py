"""Plans over the files of a test, and what their units read."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from pipelines.read.columns import TableLayout
from pipelines.read.shards import inspect_shards, list_shards
from pipelines.read.source import column_types, read_unit
from pipelines.read.units import Plan, plan_units


def planned(*paths: Path, unit_rows: int = 10, pack: bool = False, **options) -> Plan:
    """A plan for files or folders whose column q is the prompt; options are those of `inspect_shards`."""
    files = list_shards([str(path) for path in paths], "auto")
    inspection = inspect_shards(files, unit_rows=unit_rows, **({"needed": {"q": "text"}} | options))
    return plan_units(inspection, unit_rows, pack=pack)


def read_all(plan: Plan, names: Iterable[str]) -> list[pa.Table]:
    """Some columns of every unit."""
    types = column_types(plan, TableLayout(pa.schema([]), tuple(names)))
    return [read_unit(plan.shards_of(unit), unit, types) for unit in plan.units]
