"""What the driver keeps of all units: sums, whose size does not grow with the rows."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from pipelines.generate.write.unit_facts import OTHER, add_into, keep_largest, merge_errors

MOST_VALUES = 1000  # of a column while units are added up; past them small groups go to `other` early
MOST_KINDS = 50
MOST_MISMATCHES = 1000
AUDIT_SUMS = ("selected", "skipped", "compared", "same_tokens", "same_logprobs", "identical", "tokens")


@dataclass(frozen=True)
class UnitTime:
    """When a unit's tokens were made, seconds since 1970, and how many."""

    session: float
    began: float
    at: float
    tokens: int


@dataclass
class RunSums:
    """Facts of units added up, from their files' footers or from the summaries of this session.

    Attributes:
        counts: by name, as `unit_file.count_rows` makes them.
        lengths, groups, errors: as `unit_facts` makes them.
        drafted, accepted: drafts by position, the one after the anchor first.
        audit: numbers by name, and lists `mismatches` and `speed`.
        times: one entry a unit.
        ids: hashes, as `id_hashes.count_repeats` takes them.
    """

    units: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    lengths: dict[str, dict[str, int]] = field(default_factory=dict)
    groups: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    errors: dict[str, Any] = field(default_factory=dict)
    drafted: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    audit: dict[str, Any] = field(default_factory=dict)
    audit_s: float = 0.0
    times: list[UnitTime] = field(default_factory=list)
    ids: bytearray = field(default_factory=bytearray)

    def add(self, facts: Mapping[str, Any]) -> None:
        """Take in one unit; files of earlier versions may lack all but the counts."""
        counts = facts.get("counts", {})
        self.units += 1
        add_into(self.counts, counts)
        _merge(self.lengths, facts.get("lengths", {}))
        for name, groups in facts.get("groups", {}).items():
            known = self.groups.setdefault(name, {})
            _merge(known, groups)
            if len(known) > 2 * MOST_VALUES:
                self.groups[name] = keep_largest(known, MOST_VALUES)
        merge_errors(self.errors, facts.get("errors", {}), MOST_KINDS)
        positions = facts.get("positions", {})
        self.drafted = [*map(sum, zip_longest(self.drafted, positions.get("drafted", []), fillvalue=0))]
        self.accepted = [*map(sum, zip_longest(self.accepted, positions.get("accepted", []), fillvalue=0))]
        self._add_audit(facts.get("audit") or {})
        self.ids += base64.b64decode(facts.get("ids", ""))
        if "at" in facts:
            tokens = counts.get("completion_tokens", 0)
            self.times.append(UnitTime(facts["session"], facts["began"], facts["at"], tokens))

    def _add_audit(self, audit: Mapping[str, Any]) -> None:
        add_into(self.audit, {name: audit[name] for name in AUDIT_SUMS if name in audit})
        self.audit_s += audit.get("seconds", 0.0)
        for name in ("mismatches", "speed"):
            found = self.audit.setdefault(name, []) + audit.get(name, [])
            self.audit[name] = found[:MOST_MISMATCHES]


def add_histories(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """What a unit that was made in two sessions says of both: drafts by position, and the audit."""
    sums = RunSums()
    for facts in (before, now):
        sums.add({name: facts[name] for name in ("positions", "audit") if name in facts})
    return {
        "positions": {"drafted": sums.drafted, "accepted": sums.accepted},
        "audit": {**sums.audit, "seconds": sums.audit_s} if sums.audit else {},
    }


def largest(groups: Mapping[str, dict[str, int]], most: int) -> list[tuple[str, dict[str, int]]]:
    """The groups with most rows first, what is left out as the last one."""
    kept = keep_largest(groups, most)
    return sorted(kept.items(), key=lambda item: (item[0] == OTHER, -item[1]["rows"], item[0]))


def _merge(sums: dict[str, dict[str, int]], more: Mapping[str, Mapping[str, int]]) -> None:
    for key, values in more.items():
        add_into(sums.setdefault(key, {}), values)
