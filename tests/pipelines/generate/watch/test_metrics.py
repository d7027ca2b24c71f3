"""Figures of a running engine, and how Prometheus sees them."""

import re
import urllib.request

import pytest

from pipelines.generate.watch.metrics import (
    METRICS,
    EngineReporter,
    LiveRows,
    RayMetrics,
    UnitTally,
    live,
    readings,
    time_split,
)
from tests.processes import wait_until

REPORT = {
    "emitted_tokens": 900,
    "steps": 100,
    "forwards": 180,
    "draft_forwards": 80,
    "lookup_drafted": 50,
    "lookup_accepted": 20,
    "acceptance_length": 3.5,
    "waiting": 7,
    "slots": {"total": 8, "busy": 5},
    "pages": {"total": 100, "free": 60},
    "busy_s": 10.0,
    "seconds": {"draft": 3.0, "verify": 5.0, "prefill": 1.0},
    "drafter_alarm": False,
}


def now(ready_s=12.5):
    tally = UnitTally()
    tally.add(["null", None, None, None], ["null", None, "too long", None])
    return readings(REPORT, tally.totals(queue_units=2), ready_s)


def test_time_is_split_into_five_parts_that_add_up_to_the_time_since_the_engine_was_ready():
    parts = time_split(REPORT, 12.5)
    assert parts == {"draft": 3.0, "verify": 5.0, "prefill": 1.0, "other": 1.0, "idle": 2.5}


def test_forwards_slots_and_pages_are_given_by_kind():
    found = now()
    assert [found["orthrus_forwards", kind] for kind in ("draft", "verify")] == [80, 100]
    assert [found["orthrus_lookup_drafts", kind] for kind in ("drafted", "accepted")] == [50, 20]
    assert [found["orthrus_slots", state] for state in ("busy", "free")] == [5, 3]
    assert [found["orthrus_cache_pages", state] for state in ("used", "free")] == [40, 60]


def test_errors_are_counted_by_what_refused_the_row():
    found = now()
    assert [found["orthrus_errors", kind] for kind in ("prompt", "engine")] == [1, 1]
    assert (found["orthrus_rows", ""], found["orthrus_units", ""]) == (4, 1)


def test_every_metric_gets_a_reading_and_no_other_does():
    assert {name for name, _ in now()} == {spec.name for spec in METRICS}


def test_a_figure_that_an_engine_does_not_report_is_left_out():
    found = readings({"busy_s": 1.0}, UnitTally().totals(queue_units=0), 2.0)
    assert ("orthrus_tokens", "") not in found
    assert ("orthrus_slots", "busy") not in found


def test_names_carry_a_prefix_and_counters_end_in_total():
    assert all(spec.name.startswith("orthrus_") for spec in METRICS)
    exported = {spec.name: spec.exported for spec in METRICS}
    assert exported["orthrus_tokens"] == "ray_orthrus_tokens_total"
    assert exported["orthrus_queue_rows"] == "ray_orthrus_queue_rows"


def test_the_driver_is_shown_tokens_queue_and_slots():
    rows = LiveRows(lambda: 0.25)
    rows.count([1, 2, 3])
    shown = live(now(), rows)
    assert (shown["tokens"], shown["queue_rows"], shown["slots_busy"]) == (3, 7, 5)


def test_rows_of_a_unit_count_by_the_share_of_its_requests_and_then_for_good():
    rows = LiveRows(lambda: 0.25)
    with rows.unit(8):
        assert rows.finished == 2.0
    assert rows.finished == 8.0


def test_a_sink_that_fails_is_warned_of_once_and_the_others_go_on(caplog):
    seen = []

    def fails(_):
        raise OSError("no agent")

    reporter = EngineReporter(now, fails, seen.append)
    reporter.report()
    reporter.report()
    assert len(seen) >= 2
    assert [record.message for record in caplog.records] == [
        "engine_figures_failed error=OSError('no agent')"
    ]


class Recorder:
    """A metric that adds up what it is told."""

    def __init__(self):
        self.values = {}

    def inc(self, value, tags):
        self.values[tags.get("kind")] = self.values.get(tags.get("kind"), 0) + value


def test_counters_rise_by_what_came_since_the_last_reading():
    metrics = RayMetrics({"run": "r", "actor": "a", "device": "cpu"})
    recorder = metrics._metrics["orthrus_forwards"] = Recorder()
    for draft in (80, 80, 95):
        metrics.update({("orthrus_forwards", "draft"): draft})
    assert recorder.values == {"draft": 95}


@pytest.mark.ray
def test_prometheus_reads_the_figures_of_an_actor_without_a_dashboard(local_ray):
    import ray

    @ray.remote(num_cpus=0)
    class Actor:
        def run(self, values):
            self.metrics = RayMetrics({"run": "f00", "actor": "host:1", "device": "cpu"})
            self.metrics.update(values)

    actor = Actor.remote()
    expected = now()
    ray.get(actor.run.remote(expected))
    port = ray.nodes()[0]["MetricsExportPort"]
    wait_until(lambda: scrape(port) == by_exported_name(expected), 60, said=lambda: scrape(port), look_s=0.5)
    ray.kill(actor)


def by_exported_name(expected) -> dict[tuple[str, str], float]:
    names = {spec.name: spec.exported for spec in METRICS}
    return {(names[name], value): number for (name, value), number in expected.items()}


def scrape(port: int) -> dict[tuple[str, str], float]:
    """Exported names and their own tag to values, of run f00."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().split("\n")
    found = {}
    for line in lines:
        if line.startswith("ray_orthrus_") and 'run="f00"' in line:
            name, tags, number = re.fullmatch(r"(\w+)\{(.*)\} (\S+)", line).groups()
            own = re.search(r'(?:kind|state)="(\w+)"', tags)
            found[name, own.group(1) if own else ""] = float(number)
    return found
