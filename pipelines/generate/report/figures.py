"""The figures of a run as data: what `_run/report.json` holds and every other form of the report shows."""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipelines.generate.report.timeline import speed_over_time
from pipelines.generate.write.id_hashes import count_repeats, kept_share
from pipelines.generate.write.sums import RunSums, largest

if TYPE_CHECKING:
    from pipelines.generate.job.job import Job

MOST_VALUES = 20  # of a column in the report
MOST_INPUTS = 20
ENGINE_SECONDS = ("draft", "verify", "prefill")  # that an engine counts


@dataclass
class RunTimes:
    """Where the time of this session went, in seconds; earlier sessions on the same output are not in it.

    Attributes:
        wall_s: from the start of Ray to the last check.
        ray_s: until Ray was there.
        engines: the last report of each actor, by its name, with the seconds it took to load (load_s) and the
            seconds from then to its last unit (ready_s).
        sums: of the units committed by this session.
    """

    wall_s: float = 0.0
    ray_s: float = 0.0
    engines: dict[str, dict[str, Any]] = field(default_factory=dict)
    sums: RunSums = field(default_factory=RunSums)

    def add(self, summary: dict[str, Any]) -> None:
        """Take in a committed unit."""
        known = self.engines.get(summary["actor"])
        if known is None or known["busy_s"] <= summary["engine"]["busy_s"]:
            own = {name: summary[name] for name in ("load_s", "ready_s")}
            self.engines[summary["actor"]] = {**summary["engine"], **own}
        self.sums.add(summary)


def run_report(
    job: "Job",
    sums: RunSums,
    times: RunTimes,
    manifest: Mapping[str, Any] | None = None,
    *,
    status: str = "done",
    exit_code: int = 0,
    reason: str | None = None,
) -> dict[str, Any]:
    """Figures of a run.

    Args:
        sums: of every unit's file, of earlier sessions too.
        times: this session only.
        manifest: as stored.
        status: done, mismatch, interrupted or failed.
        reason: why it is not done.
    """
    counts, manifest = sums.counts, manifest or {}
    engine = manifest.get("engine")
    speed = speed_over_time(sums.times)
    return {
        "status": status,
        "exit_code": exit_code,
        "reason": reason,
        "output": job.ledger.url,
        "fingerprint": job.fingerprint,
        "created": manifest.get("created"),
        "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **_counted(job, sums),
        **_ratios(counts),
        "drafting": _drafting(job, sums),
        "exactness": (engine or {}).get("exactness") if _has_completions(counts) else None,
        "audit": audit_figures(job, sums),
        "error_kinds": dict(sorted(sums.errors.items(), key=lambda item: -item[1]["count"])),
        "drafted_by_position": sums.drafted,
        "accepted_by_position": sums.accepted,
        "lookup": {name: counts.get(f"lookup_{name}", 0) for name in ("drafted", "accepted")},
        "by_length": _by_length(sums),
        "by_group": {name: _by_value(groups) for name, groups in sums.groups.items()},
        "speed_over_time": speed,
        "cost": _cost(job, sums, speed),
        "engine": engine,
        "model": {"path": job.config.model.path, "hash": job.checkpoint.model_hash},
        "decode": job.config.decode.model_dump(mode="json"),
        "sampling": job.config.sampling.model_dump(mode="json"),
        "inputs": _inputs(job),
        "versions": manifest.get("versions", {}),
        "this_run": _this_run(times),
    }


def _counted(job: "Job", sums: RunSums) -> dict[str, Any]:
    """Rows, units and tokens."""
    counts = sums.counts
    return {
        "rows_in": counts.get("rows_in", 0),
        "rows": counts.get("rows", 0),
        "rows_planned": job.plan.num_rows,
        "units": sums.units,
        "units_planned": len(job.plan.units),
        "dropped": counts.get("dropped", 0),
        "deduplicated": counts.get("deduplicated", 0),
        "errors": counts.get("errors", 0),
        "duplicate_ids": count_repeats(sums.ids, kept_share(job.plan.num_rows)),
        "finish_reasons": {k[7:]: v for k, v in sorted(counts.items()) if k.startswith("finish_")},
        "prompt_tokens": counts.get("prompt_tokens", 0),
        "cached_tokens": counts.get("cached_tokens", 0),
        "completion_tokens": counts.get("completion_tokens", 0),
    }


def _has_completions(counts: Mapping[str, int]) -> bool:
    return counts.get("rows", 0) + counts.get("dropped", 0) > counts.get("errors", 0)


def audit_figures(job: "Job", sums: RunSums) -> dict[str, Any]:
    """What the sampled audit found, or why there was none."""
    if not job.config.audit.enabled and not sums.audit.get("selected"):
        return {"note": "switched off: audit.enabled is false"}
    if job.config.decode.mode != "consensus":
        return {"note": "nothing to audit: decode.mode is autoregressive already"}
    found = {**dict.fromkeys(("selected", "skipped", "compared", "identical"), 0), **sums.audit}
    pairs = [pair for sample in found.get("speed", []) for pair in sample["pairs"]]
    ratios = [consensus / plain for consensus, plain in pairs]
    left = found["selected"] - found["skipped"] - found["compared"]
    found |= {"lost": max(0, left), "seconds": sums.audit_s}
    if ratios:
        found["speed_ratio"] = {
            "median": statistics.median(ratios),
            "min": min(ratios),
            "max": max(ratios),
            "pairs": len(ratios),
        }
    if job.config.decode.consensus == "rejection" and found["skipped"]:
        found["note"] = (
            "rows drawn by the rejection rule have AR's distribution, not its text: skipped, only rows with "
            "temperature 0 and rows of the coupled rule can be compared"
        )
    return found


def _ratios(sums: Mapping[str, int]) -> dict[str, float | None]:
    return {
        "acceptance_length": ratio(sums.get("step_tokens", 0), sums.get("steps", 0)),
        "tokens_per_forward": ratio(sums.get("step_tokens", 0), sums.get("forwards", 0)),
    }


def _drafting(job: "Job", sums: RunSums) -> dict[str, float] | None:
    """How many of the steps of rows drafted, and the tokens of such a step; None where none may draft."""
    steps = sums.counts.get("steps", 0)
    if job.config.decode.mode != "consensus" or not steps:
        return None
    blocks = sums.drafted[0] if sums.drafted else 0
    accepted = sum(sums.accepted) / blocks if blocks else 0.0
    return {"share": min(1.0, blocks / steps), "accepted": accepted}


def _group(sums: Mapping[str, int]) -> dict[str, Any]:
    good = sums["rows"] - sums["errors"]
    return {
        **sums,
        "acceptance_length": ratio(sums["step_tokens"], sums["steps"]),
        "mean_tokens": ratio(sums["completion_tokens"], good),
    }


def _by_length(sums: RunSums) -> list[dict[str, Any]]:
    """Sums by completion length; `from` and `to` are its first and last number of tokens."""
    ends = sorted(map(int, sums.lengths))
    return [
        {"from": 0 if end <= 8 else end // 2 + 1, "to": end, **_group(sums.lengths[str(end)])} for end in ends
    ]


def _by_value(groups: Mapping[str, dict[str, int]]) -> list[dict[str, Any]]:
    return [{"value": value, **_group(one)} for value, one in largest(groups, MOST_VALUES)]


def _cost(job: "Job", sums: RunSums, speed: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the completion tokens cost, start-up and audit included; None without a price or tokens.

    A pool that grows is counted at its largest: the cost is the most that it can have been.
    """
    price, tokens = job.config.report.gpu_hour_price, sums.counts.get("completion_tokens", 0)
    if price is None or not tokens or not speed:
        return None
    hours = speed["bin_s"] * len(speed["tokens_per_s"]) / 3600 * job.config.run.most_actors
    return {
        "currency": job.config.report.currency,
        "hour_price": price,
        "actor_hours": hours,
        "total": price * hours,
        "per_million_tokens": price * hours / tokens * 1e6,
    }


def _inputs(job: "Job") -> dict[str, Any]:
    shards = job.plan.shards
    return {
        "files": len(shards),
        "rows": job.plan.num_rows,
        "bytes": sum(shard.file.size for shard in shards),
        "skipped": job.plan.skipped_inputs,
        "first": [{"url": s.file.url, "rows": s.num_rows} for s in shards[:MOST_INPUTS]],
    }


def _this_run(times: RunTimes) -> dict[str, Any]:
    engines, counts = list(times.engines.values()), times.sums.counts
    busy_s = sum(engine["busy_s"] for engine in engines)
    ready_s = sum(engine["ready_s"] for engine in engines)
    tokens, count = counts.get("completion_tokens", 0), len(engines)
    return {
        "rows": counts.get("rows", 0),
        "completion_tokens": tokens,
        "wall_s": times.wall_s,
        "ray_start_s": times.ray_s,
        "actors": count,
        "model_load_s": max((engine["load_s"] for engine in engines), default=0.0),
        "engine_s": busy_s,
        "audit_s": times.sums.audit_s,
        "tokens_per_s": ratio(tokens, times.wall_s),
        "engine_tokens_per_s": ratio(tokens * count, busy_s),
        "outside_engine_share": 1.0 - (busy_s + times.sums.audit_s) / (count * times.wall_s)
        if count and times.wall_s
        else None,
        "idle_when_ready_share": 1.0 - busy_s / ready_s if ready_s else None,
        "time_split": _time_split(times, engines),
        "drafter_alarm": any(engine.get("drafter_alarm", False) for engine in engines),
    }


def _time_split(times: RunTimes, engines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Seconds by what they were for, of an actor on average; together the wall time.

    An engine that does not count its seconds by kind has them as `engine`.
    """
    if not engines:
        return {}
    parts = {"Ray start": times.ray_s, "model load": statistics.fmean(engine["load_s"] for engine in engines)}
    busy_s = statistics.fmean(engine["busy_s"] for engine in engines)
    kinds = {
        name: statistics.fmean(engine["seconds"][name] for engine in engines)
        for name in ENGINE_SECONDS
        if all(name in engine.get("seconds", {}) for engine in engines)
    }
    parts |= kinds
    parts["other engine work" if kinds else "engine"] = max(0.0, busy_s - sum(kinds.values()))
    parts["audit"] = times.sums.audit_s / len(engines)
    parts["idle or outside"] = max(0.0, times.wall_s - sum(parts.values()))
    return parts


def ratio(count: float, of: float) -> float | None:
    """A quotient, or None where there is nothing to divide by."""
    return count / of if of else None
