"""Which rows of a run are decoded again: chosen by a hash, so that a resumed run chooses the same."""

import hashlib
import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.generate.job.job import Job

HASHES = 2**64
SURE_FACTOR = 4  # a fraction that expects this many times min_rows gives min_rows as good as always
MOST_HASHED = 100_000  # rows whose hashes the driver looks at to choose the least number exactly


@dataclass(frozen=True)
class AuditPlan:
    """Which rows are decoded again: those whose hash is below a threshold.

    Attributes:
        key: fingerprint of the run, so that a resumed run chooses the same rows.
        threshold: of 2**64 hashes; 0: no row.
        is_drawn: requests with a temperature are drawn by the rejection rule, so they cannot be compared.
    """

    key: str = ""
    threshold: int = 0
    is_drawn: bool = False

    def chooses(self, shard: int, unit: int, place: int) -> bool:
        """Whether a request is decoded again; `place` counts the unit's requests."""
        return self.threshold > 0 and row_hash(self.key, shard, unit, place) < self.threshold


def row_hash(key: str, shard: int, unit: int, place: int) -> int:
    """A number below 2**64 that nothing but its arguments decides."""
    digest = hashlib.blake2b(f"{key}/{shard}/{unit}/{place}".encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "big")


def plan_audit(job: "Job") -> AuditPlan:
    """Choose a threshold that gives `audit.fraction` of the rows, and `audit.min_rows` of a small run."""
    audit, decode = job.config.audit, job.config.decode
    if not audit.enabled or decode.mode != "consensus":
        return AuditPlan()
    threshold, num_rows = int(audit.fraction * HASHES), job.plan.num_rows
    if audit.min_rows and audit.fraction * num_rows < SURE_FACTOR * audit.min_rows:
        threshold = max(threshold, _threshold_for(job, audit.min_rows))
    return AuditPlan(job.fingerprint, threshold, decode.consensus == "rejection")


def _threshold_for(job: "Job", num_rows: int) -> int:
    """The threshold below which at least `num_rows` requests of a plan are."""
    if job.plan.num_rows > MOST_HASHED:
        return int(min(1.0, SURE_FACTOR * num_rows / job.plan.num_rows) * HASHES)
    hashes = (
        row_hash(job.fingerprint, unit.shard, unit.index, place)
        for unit in job.plan.units
        for place in range(unit.num_rows)
    )
    return max(heapq.nsmallest(num_rows, hashes), default=0) + 1
