"""What a pod waits for before it ends, with metrics and jobs that the tests make up."""

import signal
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipelines.cluster import pod_stop
from pipelines.cluster.pod_stop import busy_rows, main, read_metrics, stop_jobs, wait_until_idle
from pipelines.generate.watch.metrics import METRICS


def metrics(busy=0, rows=0, units=0):
    return "\n".join(
        [
            "# HELP ray_orthrus_slots sequence slots",
            f'ray_orthrus_slots{{actor="a",state="busy"}} {busy}',
            'ray_orthrus_slots{actor="a",state="free"} 8.0',
            f'ray_orthrus_queue_rows{{actor="a"}} {rows} 1700000000',
            f'ray_orthrus_queue_units{{actor="a"}} {units}',
            'ray_orthrus_rows_total{actor="a"} 640.0',
            "process_cpu_seconds_total 12.5",
        ]
    )


class Clock:
    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def test_the_metrics_that_it_reads_are_those_that_actors_offer():
    assert {"ray_orthrus_slots", "ray_orthrus_queue_rows", "ray_orthrus_queue_units"} <= {
        spec.exported for spec in METRICS
    }


def test_busy_slots_and_waiting_rows_and_units_count_and_nothing_else_does():
    assert busy_rows(metrics(busy=3.0, rows=20.0, units=1.0)) == 24
    assert busy_rows(metrics()) == 0
    assert busy_rows("process_cpu_seconds_total 12.5\n") == 0


def test_two_actors_of_a_node_are_summed():
    assert busy_rows(metrics(busy=3.0) + "\n" + metrics(busy=2.0)) == 5


def test_a_worker_waits_until_its_engines_have_been_idle_for_two_looks():
    looks = iter([metrics(busy=2.0), metrics(units=1.0), metrics(), metrics(rows=1.0), metrics(), metrics()])
    clock = Clock()
    assert wait_until_idle(lambda: next(looks), 1000, look_s=15, clock=clock)
    assert clock.now == 75
    assert next(looks, None) is None


def test_a_worker_gives_up_at_its_limit():
    clock = Clock()
    assert not wait_until_idle(lambda: metrics(busy=1.0), 100, look_s=15, clock=clock)
    assert 85 < clock.now <= 100


def test_a_worker_whose_node_is_gone_waits_no_longer():
    clock = Clock()
    assert wait_until_idle(lambda: None, 100, clock=clock)
    assert clock.now == 0


def test_metrics_come_over_http_and_are_none_where_nobody_answers():
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            self.send_response(200)
            self.end_headers()
            self.wfile.write(metrics(busy=7.0).encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    url = f"http://127.0.0.1:{server.server_port}/metrics"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    assert busy_rows(read_metrics(url)) == 7
    server.shutdown()
    server.server_close()
    assert read_metrics(url) is None


@dataclass
class Status:
    ended: bool

    def is_terminal(self):
        return self.ended


@dataclass
class Driver:
    pid: str


@dataclass
class Job:
    submission_id: str | None
    status: Status
    driver_info: Driver | None


class Client:
    """Jobs that end some looks after they were told to stop."""

    def __init__(self, jobs, looks):
        self.jobs = [Job(name, Status(ended), pid and Driver(pid)) for name, ended, pid in jobs]
        self.looks = looks
        self.stopped = []

    def list_jobs(self):
        return self.jobs

    def stop_job(self, name):
        self.stopped.append(name)

    def get_job_status(self, name):
        self.looks -= 1
        return Status(self.looks < 0)


def test_the_head_signals_drivers_of_jobs_that_run_and_waits_for_them():
    client = Client([("run", False, "71"), ("old", True, "72"), (None, False, "73")], looks=3)
    sent = []
    assert stop_jobs(client, time.monotonic() + 10, look_s=0.01, send=lambda *to: sent.append(to))
    assert sent == [(71, signal.SIGTERM)]
    assert client.stopped == []
    assert client.looks == -1


def test_a_job_whose_driver_has_not_joined_yet_is_stopped_through_ray():
    client = Client([("young", False, None)], looks=0)
    assert stop_jobs(client, time.monotonic() + 10, look_s=0.01)
    assert client.stopped == ["young"]


def test_where_no_job_runs_there_is_nothing_to_wait_for():
    assert not stop_jobs(Client([("old", True, "72")], looks=0), time.monotonic() + 10)


def test_the_head_gives_up_at_its_limit():
    client = Client([("run", False, None)], looks=10**6)
    assert not stop_jobs(client, time.monotonic() + 0.05, look_s=0.01)


def test_a_pod_ends_even_when_nothing_can_be_done(monkeypatch, caplog):
    def fail(_):
        raise ConnectionError("no cluster here")

    monkeypatch.setattr(pod_stop, "stop_worker", fail)
    assert main(["worker"]) == 0
    assert "units in progress may be lost and made again: ConnectionError: no cluster here" in caplog.text


@pytest.mark.parametrize("role", ["worker", "head"])
def test_each_role_gets_its_limit(role, monkeypatch):
    limits = []
    monkeypatch.setattr(pod_stop, f"stop_{role}", lambda limit_s, *_: limits.append(limit_s))
    assert main([role, "--limit-s", "12"]) == 0
    assert limits == [12.0]
