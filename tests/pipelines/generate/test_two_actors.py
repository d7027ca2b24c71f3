"""Two actors at work on one output: what Prometheus sees of them, and how they are drained."""

import asyncio
import json
import os
import re
import signal
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from pipelines.command.signals import Interrupted, StopSignals
from pipelines.generate.build import run_job
from pipelines.generate.decode.actor import GenerateActor
from pipelines.generate.job.job import prepare
from pipelines.generate.watch.progress import Progress
from pipelines.generate.write.unit_file import read_footer
from tests.fakes import FakeEngine
from tests.pipelines.conftest import generate_tree, job_of

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

REPORTS_EVERY_S = 1.0  # of actors to Ray, and of the tests' Ray to its port
NAMES = {"rows": "ray_orthrus_rows_total", "tokens": "ray_orthrus_tokens_total"}


class Slow(FakeEngine):
    """An engine that takes its time, and counts its tokens."""

    emitted = 0

    def step(self):
        time.sleep(0.02)
        finished = super().step()
        self.emitted += sum(len(completion.token_ids) for completion in finished)
        return finished

    def report(self):
        return super().report() | {"emitted_tokens": self.emitted}


def slow_engine(spec) -> Slow:
    return Slow(max_sequences=2)


class Lingering(GenerateActor):
    """An actor that lives on after its last unit until its figures have been asked for."""

    async def __call__(self, table):
        output = await super().__call__(table)
        await asyncio.sleep(4 * REPORTS_EVERY_S)
        return output


@pytest.fixture
def job(model_dir, many_prompts, tmp_path):
    """223 rows, two of them errors, in sixteen units for two actors."""
    tree = generate_tree(model_dir, many_prompts, tmp_path / "out", unit_rows=16)
    tree["run"] |= {"actors": 2, "cpus_per_actor": 0.5, "calls_in_flight": 8}
    tree["audit"] = {"enabled": False}
    tree["sampling"]["seed"] = 4711  # a fingerprint of its own: metrics of other tests' runs are still there
    return job_of(tree)


def progress_of(job) -> Progress:
    return Progress(total_rows=job.plan.num_rows, done_rows=0, every_s=60)


def scrape(run: str) -> Counter:
    """What the actors of a run have counted so far, by metric and kind, each actor at its highest."""
    import ray

    port = ray.nodes()[0]["MetricsExportPort"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = Counter()
    for name, tags, number in re.findall(r"^(ray_orthrus_\w+)\{(.*)\} (\S+)$", text, re.M):
        if f'run="{run}"' in tags:
            kind = re.search(r'kind="(\w+)"', tags)
            found[name, kind.group(1) if kind else ""] += float(number)
    return found


@pytest.mark.slow
def test_what_prometheus_counts_of_a_whole_run_is_what_its_report_says(by_value, job, monkeypatch):
    monkeypatch.setattr("pipelines.generate.build.GenerateActor", Lingering)
    seen: Counter = Counter()
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(0.2):
            for key, value in scrape(job.fingerprint).items():
                seen[key] = max(seen[key], value)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        report = run_job(job, progress_of(job), slow_engine)
    finally:
        is_over.set()
        watcher.join(30)
    assert report["this_run"]["actors"] == 2
    counted = {name: seen[metric, ""] for name, metric in NAMES.items()}
    errors = {kind: seen["ray_orthrus_errors_total", kind] for kind in ("prompt", "engine")}
    assert counted == {"rows": report["rows"], "tokens": report["completion_tokens"]}
    assert errors == {"prompt": report["errors"], "engine": 0}
    assert seen["ray_orthrus_units_total", ""] == report["units"] == 16


@pytest.mark.slow
def test_sigterm_drains_two_actors_and_the_same_job_goes_on(by_value, job):
    data = Path(job.ledger.data_url)

    def committed() -> list[str]:
        return sorted(path.name for path in data.glob("part-*"))

    def send() -> None:
        deadline = time.monotonic() + 200
        while len(committed()) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=send, daemon=True)
    with StopSignals() as stop:
        sender.start()
        with pytest.raises(Interrupted, match="rows are finished and kept in"):
            run_job(job, progress_of(job), slow_engine, stop)
    kept = committed()
    time.sleep(1)
    assert committed() == kept  # nothing was left at work
    assert 3 <= len(kept) < 16
    assert not list(data.glob(".*"))
    assert len({read_footer(str(data / name))["session"] for name in kept}) == 1
    report = json.loads(Path(job.ledger.run_url, "report.json").read_text())
    rows = ds.dataset(data).count_rows()
    assert (report["status"], report["rows"], report["rows_done"]) == ("interrupted", rows, rows)
    assert report["this_run"]["actors"] == 2

    again = prepare(job.config)
    assert len(again.units) == 16 - len(kept)
    report = run_job(again, progress_of(again), slow_engine)
    ids = ds.dataset(data).to_table(["id"]).column("id").to_pylist()
    assert (report["status"], len(ids), len(set(ids))) == ("done", 223, 223)
