"""Unit files that a store lost or mixed up: found when a run is to be called done, and never trusted."""

import json
import logging
from collections.abc import Collection, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orthrus_core.errors import OrthrusError
from pipelines.generate.ledger import Ledger, Unit
from pipelines.generate.sink import FOOTER_KEY
from pipelines.storage import map_files, open_file, read_bytes, remove

logger = logging.getLogger(__name__)


class DamagedUnitError(OrthrusError):
    """A unit's file cannot be read, or is not the file of that unit."""


class ForeignUnitError(OrthrusError):
    """A unit's file is whole, but of another run."""


def read_unit_footer(url: str) -> dict[str, Any]:
    """What a unit's file says of itself, without reading its rows.

    Raises:
        DamagedUnitError: there is no file, or it is no Parquet file.
        Exception: what the store raises when it does not answer.
    """
    try:
        with open_file(url) as handle:
            metadata = pq.read_metadata(handle)
    except Exception:  # of the store, or of the file: Arrow raises OSError for both
        metadata = _read_whole(url)
    return json.loads((metadata.metadata or {}).get(FOOTER_KEY, b"{}"))


def _read_whole(url: str) -> pq.FileMetaData:
    """The metadata of a file, from memory, so that what fails is the file and not the store."""
    content = read_bytes(url)
    if content is None:
        raise DamagedUnitError(f"{url} is gone")
    try:
        return pq.read_metadata(pa.BufferReader(content))
    except (pa.ArrowException, OSError) as error:
        raise DamagedUnitError(f"{url} is no whole Parquet file: {' '.join(str(error).split())}") from None


def check_unit(url: str, unit: Unit, fingerprints: Collection[str]) -> None:
    """Check that a file is the one that this run wrote for a unit.

    Args:
        fingerprints: that the run has, or had when it was begun.
    Raises:
        DamagedUnitError, ForeignUnitError: it is not.
    """
    footer = read_unit_footer(url)
    if (found := footer.get("fingerprint")) not in fingerprints:
        raise ForeignUnitError(f"{url} has fingerprint {found}, this run {min(fingerprints)}")
    if (footer["shard"], footer["unit"]) != (unit.shard, unit.index):
        raise DamagedUnitError(f"{url} holds unit {footer['unit']} of shard {footer['shard']}")


def check_units(ledger: Ledger, units: Sequence[Unit], fingerprint: str) -> None:
    """Check all files of a run that is to be called done, and remove those that are of no use.

    A file that cannot be read is removed, so that the next start makes it again. A whole file of another run
    is somebody's data: it is named and left alone.

    Raises:
        OrthrusError: naming what was found.
    """
    fingerprints = {fingerprint, (ledger.manifest() or {}).get("fingerprint", fingerprint)}

    def fault_of(unit: Unit) -> OrthrusError | None:
        try:
            check_unit(ledger.unit_url(unit), unit, fingerprints)
        except (DamagedUnitError, ForeignUnitError) as error:
            return error
        return None

    faults = list(zip(units, map_files(fault_of, units), strict=True))
    foreign = [str(fault) for _, fault in faults if isinstance(fault, ForeignUnitError)]
    if foreign:
        raise OrthrusError(
            f"{len(foreign)} file(s) of another run in data/: {'; '.join(foreign[:3])}; move them away"
        )
    damaged = [(unit, str(fault)) for unit, fault in faults if fault is not None]
    for unit, fault in damaged:
        logger.warning("damaged unit removed: %s", fault)
        remove(ledger.unit_url(unit))
    if damaged:
        raise OrthrusError(
            f"{len(damaged)} damaged unit file(s) removed: {'; '.join(fault for _, fault in damaged[:3])}; "
            "the same command makes them again"
        )
