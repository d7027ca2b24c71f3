"""Figures of a running engine for Prometheus (`ray.util.metrics`) and for the driver's progress lines.

A thread of the actor reads the engine's counters once a second; nothing is measured per token. Whatever fails
here is logged once and harms no run.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

logger = logging.getLogger(__name__)

EVERY_S = 1.0
TAGS = ("run", "actor", "device")  # of every metric: fingerprint, host:pid, cpu or cuda


@dataclass(frozen=True)
class MetricSpec:
    """One metric. Prometheus sees it as `ray_` + name, a counter with `_total` behind.

    Attributes:
        tag: a tag that it has beside those of every metric.
    """

    name: str
    kind: Literal["counter", "gauge"]
    meaning: str
    tag: str | None = None

    @property
    def exported(self) -> str:
        """Its name in Prometheus."""
        return f"ray_{self.name}" + ("_total" if self.kind == "counter" else "")


METRICS = (
    MetricSpec("orthrus_tokens", "counter", "tokens emitted"),
    MetricSpec("orthrus_rows", "counter", "rows finished, errors included; counted unit by unit"),
    MetricSpec("orthrus_units", "counter", "units finished"),
    MetricSpec("orthrus_errors", "counter", "error rows, by what refused them: prompt or engine", "kind"),
    MetricSpec("orthrus_steps", "counter", "engine steps"),
    MetricSpec("orthrus_forwards", "counter", "forward passes, by view: draft or verify", "kind"),
    MetricSpec("orthrus_lookup_drafts", "counter", "looked up drafts: drafted or accepted", "kind"),
    MetricSpec("orthrus_time_seconds", "counter", "draft, verify, prefill, other, idle", "kind"),
    MetricSpec("orthrus_acceptance_length_tokens", "gauge", "tokens emitted per sequence and step so far"),
    MetricSpec("orthrus_queue_rows", "gauge", "rows that wait in the engine for a slot"),
    MetricSpec("orthrus_queue_units", "gauge", "units that wait in front of the engine"),
    MetricSpec("orthrus_slots", "gauge", "sequence slots, by state: busy or free", "state"),
    MetricSpec("orthrus_cache_pages", "gauge", "pages of the K/V cache, by state: used or free", "state"),
    MetricSpec("orthrus_drafter_alarm", "gauge", "1 when drafts hardly ever stand"),
)

# (metric, value of its own tag or "") to a number; counters hold their total since the actor's start
Readings = dict[tuple[str, str], float]


def readings(report: Mapping[str, Any], unit_totals: Mapping[str, float], ready_s: float) -> Readings:
    """All metrics of an actor as they stand.

    Args:
        report: the engine's; a figure that it lacks is left out.
        unit_totals: rows, units, error_prompt, error_engine, queue_units.
        ready_s: since the engine was ready.
    """
    found: dict[tuple[str, str], float | None] = {
        ("orthrus_tokens", ""): report.get("emitted_tokens"),
        ("orthrus_steps", ""): report.get("steps"),
        ("orthrus_acceptance_length_tokens", ""): report.get("acceptance_length"),
        ("orthrus_queue_rows", ""): report.get("waiting"),
        ("orthrus_drafter_alarm", ""): report.get("drafter_alarm"),
        ("orthrus_lookup_drafts", "drafted"): report.get("lookup_drafted"),
        ("orthrus_lookup_drafts", "accepted"): report.get("lookup_accepted"),
        ("orthrus_rows", ""): unit_totals.get("rows", 0),
        ("orthrus_units", ""): unit_totals.get("units", 0),
        ("orthrus_queue_units", ""): unit_totals.get("queue_units", 0),
        ("orthrus_errors", "prompt"): unit_totals.get("error_prompt", 0),
        ("orthrus_errors", "engine"): unit_totals.get("error_engine", 0),
    }
    if "forwards" in report and "draft_forwards" in report:
        drafts = report["draft_forwards"]
        found["orthrus_forwards", "draft"] = drafts
        found["orthrus_forwards", "verify"] = report["forwards"] - drafts
    if slots := report.get("slots"):
        found["orthrus_slots", "busy"] = slots["busy"]
        found["orthrus_slots", "free"] = slots["total"] - slots["busy"]
    if pages := report.get("pages"):
        found["orthrus_cache_pages", "free"] = pages["free"]
        found["orthrus_cache_pages", "used"] = pages["total"] - pages["free"]
    found |= {("orthrus_time_seconds", kind): value for kind, value in time_split(report, ready_s).items()}
    return {name: float(value) for name, value in found.items() if value is not None}


class LiveRows:
    """Input rows that an actor has finished and the tokens of all its rows so far, without the audit's."""

    def __init__(self, finished_share: Callable[[], float]):
        """Args: finished_share of the requests in the engine."""
        self._finished_share = finished_share
        self._finished = self._in_engine = 0
        self.tokens = 0

    def count(self, token_ids: Sequence[int]) -> None:
        """Take in tokens of a row; for `Request.on_tokens`."""
        self.tokens += len(token_ids)

    @property
    def finished(self) -> float:
        """Rows, those of units in progress too."""
        return self._finished + self._in_engine * self._finished_share()

    @contextlib.contextmanager
    def unit(self, num_rows: int) -> Iterator[None]:
        """Within this, the rows of a unit are generated."""
        self._in_engine += num_rows
        yield
        self._in_engine -= num_rows
        self._finished += num_rows


def live(now: Readings, rows: LiveRows) -> dict[str, Any]:
    """What the driver shows of an actor, from its readings."""
    return {
        "state": "ready",
        "tokens": rows.tokens,
        "rows": rows.finished,
        "acceptance_length": now.get(("orthrus_acceptance_length_tokens", "")),
        "queue_rows": now.get(("orthrus_queue_rows", ""), 0.0),
        "slots_busy": now.get(("orthrus_slots", "busy"), 0.0),
    }


class UnitTally:
    """What an actor has finished."""

    def __init__(self) -> None:
        self._totals = {"rows": 0.0, "units": 0.0, "error_prompt": 0.0, "error_engine": 0.0}

    def add(self, before: Sequence[str | None], after: Sequence[str | None]) -> None:
        """Count a unit.

        Args:
            before: of each row, the error with which it came, and so never reached the engine.
            after: of each completion, its error.
        """
        num_before, num_after = (sum(error is not None for error in errors) for errors in (before, after))
        more = {"rows": len(after), "units": 1, "error_prompt": num_before}
        more["error_engine"] = num_after - num_before
        self._totals = {name: total + more[name] for name, total in self._totals.items()}

    def totals(self, **others: float) -> dict[str, float]:
        """The counts so far and others beside them, by name."""
        return self._totals | others


def time_split(report: Mapping[str, Any], ready_s: float) -> dict[str, float]:
    """Seconds since the engine was ready by what they went to: draft, verify, prefill, other, idle."""
    busy_s, parts = report.get("busy_s", 0.0), dict(report.get("seconds", {}))
    parts["other"] = max(0.0, busy_s - sum(parts.values()))
    parts["idle"] = max(0.0, ready_s - busy_s)
    return parts


class RayMetrics:
    """The metrics of one actor in Ray."""

    def __init__(self, tags: Mapping[str, str]):
        """Args: tags are those of TAGS."""
        from ray.util.metrics import Counter, Gauge

        kinds = {"counter": Counter, "gauge": Gauge}
        self._tags = dict(tags)
        self._specs = {spec.name: spec for spec in METRICS}
        self._metrics: dict[str, Any] = {
            spec.name: kinds[spec.kind](
                spec.name, spec.meaning, tag_keys=(*TAGS, *([spec.tag] if spec.tag else []))
            )
            for spec in METRICS
        }
        self._counted: Readings = {}

    def update(self, now: Readings) -> None:
        """Bring Ray's metrics to these readings."""
        for (name, value), number in now.items():
            spec = self._specs[name]
            tags = self._tags | ({spec.tag: value} if spec.tag else {})
            if spec.kind == "gauge":
                self._metrics[name].set(number, tags)
            elif (more := number - self._counted.get((name, value), 0.0)) > 0:
                self._metrics[name].inc(more, tags)
                self._counted[name, value] = number


class EngineReporter:
    """Reads an actor's figures once a second and hands them on, in a thread of its own."""

    def __init__(self, read: Callable[[], Readings], *sinks: Callable[[Readings], None]):
        """Start.

        Args:
            read: the readings as they stand.
            sinks: where they go; one that fails is logged once and tried again.
        """
        self._read = read
        self._sinks = sinks
        self._has_warned = False
        self._lock = threading.Lock()
        threading.Thread(target=self._run, name="engine-reporter", daemon=True).start()

    def report(self) -> None:
        """Hand the readings on now."""
        with self._lock:
            for sink in self._sinks:
                try:
                    sink(self._read())
                except Exception as error:  # figures are a service to the operator, no reason to fail
                    if not self._has_warned:
                        logger.warning("engine_figures_failed error=%r", error)
                    self._has_warned = True

    def _run(self) -> None:
        while True:
            self.report()
            time.sleep(EVERY_S)
