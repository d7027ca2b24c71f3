"""Unit files that a store lost or mixed up: found when a run is to be called done, and never trusted."""

import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from orthrus_core.errors import OrthrusError
from pipelines.generate.ledger.ledger import Ledger, check_counts
from pipelines.generate.write.unit_file import FOOTER_KEY, facts_of
from pipelines.read.units import Plan, Unit
from pipelines.storage.files import join, map_files, open_file, read_bytes, remove

ResultT = TypeVar("ResultT")

logger = logging.getLogger(__name__)


class DamagedUnitError(OrthrusError):
    """A unit's file cannot be read, or is not the file of that unit."""


class ForeignUnitError(OrthrusError):
    """A unit's file is whole, but of another run."""


def read_unit_footer(url: str) -> tuple[dict[str, Any], int]:
    """What a unit's file says of itself, and how many rows it has, without reading them.

    Raises:
        DamagedUnitError: there is no file, or it is no Parquet file.
        Exception: what the store raises when it does not answer.
    """
    try:
        with open_file(url) as handle:
            metadata = pq.read_metadata(handle)
    except Exception:  # of the store, or of the file: Arrow raises OSError for both
        metadata = _read_whole(url, pq.read_metadata)
    return json.loads((metadata.metadata or {}).get(FOOTER_KEY, b"{}")), metadata.num_rows


def _read_whole(url: str, read: Callable[[pa.BufferReader], ResultT]) -> ResultT:
    """What a function makes of a Parquet file in memory, so that what fails is the file and not the store."""
    content = read_bytes(url)
    if content is None:
        raise DamagedUnitError(f"{url} is gone")
    try:
        return read(pa.BufferReader(content))
    except (pa.ArrowException, OSError) as error:
        raise DamagedUnitError(f"{url} is no whole Parquet file: {' '.join(str(error).split())}") from None


def checked_footer(url: str, unit: Unit, fingerprints: Collection[str]) -> dict[str, Any]:
    """The footer of a file that this run wrote for a unit: {rows, counts, ...} of FOOTER_FACTS.

    Args:
        fingerprints: that the run has, or had when it was begun or repaired.
    Raises:
        DamagedUnitError, ForeignUnitError: it is none.
    """
    footer, num_rows = read_unit_footer(url)
    if (found := footer.get("fingerprint")) not in fingerprints:
        raise ForeignUnitError(f"{url} has fingerprint {found}, this run {min(fingerprints)}")
    if (footer["shard"], footer["unit"]) != (unit.shard, unit.index):
        raise DamagedUnitError(f"{url} holds unit {footer['unit']} of shard {footer['shard']}")
    return {"counts": {}, **facts_of(footer), "rows": num_rows}


def verify_unit(ledger: Ledger, unit: Unit, footer: Mapping[str, Any]) -> None:
    """Read the file of a unit and its side file to the last page.

    Args:
        footer: as `checked_footer` returns it.
    Raises:
        DamagedUnitError: pages that cannot be decoded or do not fit their checksums, or missing rows.
    """
    rows, dropped = _read_whole(ledger.unit_url(unit), _count_rows), {}
    if footer["counts"].get("dropped"):
        dropped[unit.file_name] = _read_whole(join(ledger.dropped_url, unit.file_name), _count_rows)
    try:
        check_counts([unit], [{**footer, "rows": rows}], dropped)
    except OrthrusError as error:
        raise DamagedUnitError(str(error)) from None


def _count_rows(content: pa.BufferReader) -> int:
    batches = pq.ParquetFile(content, page_checksum_verification=True).iter_batches()
    return sum(batch.num_rows for batch in batches)


def checked_footers(ledger: Ledger, units: Sequence[Unit], fingerprints: Collection[str]) -> list[dict]:
    """The footers of units of a run that is to be called done; files that are of no use are removed.

    A file that cannot be read, or whose side file cannot, is removed: the next start makes both again. A
    whole file of another run is somebody's data: it is named and left alone.

    Returns:
        {rows, counts, ...} of each unit, side_rows too where it has a side file.

    Raises:
        OrthrusError: naming what was found.
    """

    def look(unit: Unit) -> dict[str, Any] | OrthrusError:
        try:
            footer = checked_footer(ledger.unit_url(unit), unit, fingerprints)
            if footer["counts"].get("dropped"):
                footer["side_rows"] = read_unit_footer(join(ledger.dropped_url, unit.file_name))[1]
            return footer
        except (DamagedUnitError, ForeignUnitError) as error:
            return error

    looked = list(zip(units, map_files(look, units), strict=True))
    foreign = [str(found) for _, found in looked if isinstance(found, ForeignUnitError)]
    if foreign:
        raise OrthrusError(
            f"{len(foreign)} file(s) of another run in data/: {'; '.join(foreign[:3])}; move them away"
        )
    damaged = [(unit, str(found)) for unit, found in looked if isinstance(found, OrthrusError)]
    for unit, fault in damaged:
        logger.warning("damaged unit removed: %s", fault)
        remove(ledger.unit_url(unit))
    if damaged:
        raise OrthrusError(
            f"{len(damaged)} damaged unit file(s) removed: {'; '.join(fault for _, fault in damaged[:3])}; "
            "the same command makes them again"
        )
    return [found for _, found in looked if isinstance(found, dict)]


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
