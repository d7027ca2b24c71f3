"""Writing units: one file each, put in one step, which is the commit."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from orthrus_core.errors import ConfigError
from pipelines.generate.config.compact import Compression
from pipelines.generate.config.output import RowFilters
from pipelines.generate.hooks.hook import Hook
from pipelines.generate.hooks.tables import map_output
from pipelines.generate.write.id_hashes import hash_ids
from pipelines.generate.write.repair import Repair
from pipelines.generate.write.row_filters import count_reasons, dropped_reasons
from pipelines.generate.write.sums import add_histories
from pipelines.generate.write.unit_facts import add_work, unit_facts
from pipelines.generate.write.unit_file import count_rows, facts_of, recount_rows, write_unit_file
from pipelines.read.arrow_types import bring_all_to
from pipelines.read.columns import ENGINE, INPUT_FAULTS, OVERWRITTEN, PLACE, SHARD, UNIT, TableLayout
from pipelines.read.units import unit_file_name
from pipelines.storage.config import StorageConfig, use_storage
from pipelines.storage.files import is_local, join

SUMMARY = "summary"


@dataclass(frozen=True)
class RowPolicy:
    """What becomes of rows on their way to the files.

    Attributes:
        dropped_url: where rows go that `filters` takes out.
        repair: finished units whose other rows are kept; None: units are written for the first time.
        group_by: carried columns that the report groups by.
        id_share: share of the ids whose hashes the footer keeps, so that those of two rows are found.
        driver_file: one that the driver wrote; a node that does not see it would write for itself alone.
            Empty: not looked for.
        hook: finished rows go through it before filters see them.
        compression: of the files.
    """

    dropped_url: str
    filters: RowFilters
    repair: Repair | None = None
    group_by: tuple[str, ...] = ()
    driver_file: str = ""
    id_share: float = 0.0
    hook: Hook | None = None
    compression: Compression = Compression()


def commit_unit(
    table: pa.Table,
    data_url: str,
    layout: TableLayout,
    fingerprint: str,
    *,
    policy: RowPolicy | None = None,
    storage: StorageConfig | None = None,
    on_bad_shard: str = "skip",
) -> pa.Table:
    """Write a unit's file and pass on one row that sums it up; the last dataset stage.

    Rows that filters take out go to the unit's side file, which is written first: the file in data/ is the
    commit of both.

    Args:
        table: as `actor.GenerateActor` makes it.
        policy: None: all rows are written as they are.
        storage: how this process reaches `data_url`; None: as it does already.
        on_bad_shard: "skip" writes a unit whose input is damaged as error rows, "fail" leaves it undone.
    Returns:
        One row with SUMMARY: json of {shard, unit, rows, rows_in, actor, load_s, engine, counts}; the counts
        are those of the rows that were made now. Of a unit that was left undone {shard, unit, rows: 0,
        unreadable: why}.
    """
    if storage is not None:
        use_storage(storage)
    shard, index = (table.column(name)[0].as_py() for name in (SHARD, UNIT))
    if (fault := _input_fault(table, on_bad_shard)) is not None:
        return pa.table(
            {SUMMARY: [json.dumps({"shard": shard, "unit": index, "rows": 0, "unreadable": fault})]}
        )
    made = json.loads(table.column(ENGINE)[0].as_py())
    policy = policy or RowPolicy("", RowFilters())
    _check_shared(policy.driver_file)
    if policy.hook is not None:
        table = map_output(table, policy.hook, layout)
        made["counts"] = recount_rows(made["counts"], table)
    output, facts = _unit_rows(table, layout, made, policy, (shard, index))
    reasons = dropped_reasons(output, policy.filters)
    counts = facts["counts"] | count_reasons(reasons)
    counts["rows"] = output.num_rows - counts["dropped"]
    footer = {"fingerprint": fingerprint, "shard": shard, "unit": index, **facts, "counts": counts}
    name = unit_file_name(shard, index)
    if counts["dropped"]:
        footer["dropped_at"] = [row for row, reason in enumerate(reasons) if reason is not None]
        write_unit_file(
            join(policy.dropped_url, name), _dropped(output, layout, reasons), footer, policy.compression
        )
        output = output.filter(pa.array([reason is None for reason in reasons], pa.bool_()))
    write_unit_file(join(data_url, name), layout.to_file(output), footer, policy.compression)
    summary = {"shard": shard, "unit": index, **made, "rows": counts["rows"], "rows_in": counts["rows_in"]}
    if policy.repair is None:
        summary |= facts | {"counts": counts}
    return pa.table({SUMMARY: [json.dumps(summary)]})


def _check_shared(driver_file: str) -> None:
    """Refuse to write to a local path that is another one on the driver's node.

    Raises:
        ConfigError: this node does not see what the driver wrote.
    """
    if driver_file and is_local(driver_file) and not os.path.exists(driver_file):
        raise ConfigError(
            f"output.path: node {os.uname().nodename} does not see {driver_file}, which the driver wrote; "
            "give a URL such as s3://BUCKET/NAME or a path on storage that all nodes share"
        )


def _input_fault(table: pa.Table, on_bad_shard: str) -> str | None:
    """Why a unit cannot be done: its input cannot be read and the config says fail, or it was overwritten."""
    errors = (error for error in table.column("error").to_pylist() if error is not None)
    error = next((error for error in errors if error.startswith(INPUT_FAULTS)), None)
    if error is None:
        return None
    return None if not error.startswith(OVERWRITTEN) and on_bad_shard == "skip" else error


def _unit_rows(
    table: pa.Table, layout: TableLayout, made: dict[str, Any], policy: RowPolicy, unit: tuple[int, int]
) -> tuple[pa.Table, dict[str, Any]]:
    """All rows of a unit, and what its footer says of them before filters."""
    schema = layout.output
    if policy.repair is None:
        output = bring_all_to(table, schema)
        return output, facts_of(made) | _facts(output, layout, policy)
    merged = policy.repair.merge(table.select([*schema.names, PLACE]), *unit)
    counts = count_rows(merged.table) | {"rows_in": len(set(merged.places))}
    for name in ("deduplicated", "deduplicated_tokens"):
        counts[name] = merged.facts.get("counts", {}).get(name, 0) + made["counts"].get(name, 0)
    facts = facts_of(made) | add_histories(merged.facts, made) | {"counts": counts}
    facts |= _facts(merged.table, layout, policy)
    if not layout.diagnostics:
        add_work(facts, merged.facts)
    return merged.table, facts


def _facts(output: pa.Table, layout: TableLayout, policy: RowPolicy) -> dict[str, Any]:
    """Sums over rows, groups by the names of the input, and hashes of the ids."""
    facts = unit_facts(output, [layout.within(name) for name in policy.group_by])
    facts["groups"] = dict(zip(policy.group_by, facts["groups"].values(), strict=True))
    first = output.filter(pc.equal(output.column("sample"), 0))
    return facts | {"ids": hash_ids(first.column("id").to_pylist(), policy.id_share)}


def _dropped(output: pa.Table, layout: TableLayout, reasons: Sequence[str | None]) -> pa.Table:
    """The rows of the side file."""
    with_reasons = layout.to_file(output).append_column(layout.dropped_reason, pa.array(reasons, pa.string()))
    dropped = with_reasons.filter(pa.array([reason is not None for reason in reasons], pa.bool_()))
    return bring_all_to(dropped, layout.dropped)
