"""A pod's end on real Ray clusters: a drained node gets no further unit, a stopped head ends its job well."""

import logging
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipelines.pod_stop import drain_node

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
RAY = Path(sys.executable).with_name("ray")
JOB = """
import pathlib, signal, sys, time
import ray
ray.init(log_to_driver=False)
def drain(*_):
    time.sleep(1)
    pathlib.Path(sys.argv[1]).write_text("drained")
    sys.exit(3)
signal.signal(signal.SIGTERM, drain)
pathlib.Path(sys.argv[1]).write_text("running")
time.sleep(300)
"""


def test_a_drained_node_gets_no_further_unit_and_finishes_those_it_has(monkeypatch):
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PATH", f"{RAY.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    small = {"object_store_memory": 80 * 2**20}
    cluster = Cluster(True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
    try:
        _, leaving = (cluster.add_node(num_cpus=2, **small) for _ in range(2))
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False

        class Unit:
            def __call__(self, batch):
                time.sleep(0.5)
                node = ray.get_runtime_context().get_node_id()
                return {**batch, "node": [node], "time": [time.time()]}

        pool = ray.data.ActorPoolStrategy(size=2, max_tasks_in_flight_per_actor=2)
        units = ray.data.range(60, override_num_blocks=60)
        units = units.map_batches(Unit, batch_size=None, num_cpus=0.5, compute=pool)
        seen, drained_at = [], []

        def drain():
            drain_node(leaving.node_id, 60)
            drained_at.append(time.time())

        thread = threading.Thread(target=drain)
        for unit in units.iter_rows():
            seen.append(unit)
            if unit["node"] == leaving.node_id and not thread.ident:
                thread.start()
        thread.join()
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert sorted(unit["id"] for unit in seen) == list(range(60))
    # two units in flight of 0.5 s each, and the second in which Ray Data takes notice
    late = [u for u in seen if u["node"] == leaving.node_id and u["time"] > drained_at[0] + 4]
    assert late == []
    assert sum(unit["time"] > drained_at[0] + 4 for unit in seen) > 5


@pytest.fixture
def head(tmp_path):
    """A head with token authentication; yields its environment and its dashboard."""
    port, dashboard = free_port(), free_port()
    environment = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
        "RAY_ADDRESS": f"127.0.0.1:{port}",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "PYTHONPATH": str(ROOT),
    }
    options = [f"--port={port}", f"--dashboard-port={dashboard}", "--node-ip-address=127.0.0.1"]
    options += ["--dashboard-agent-listen-port=0", "--num-cpus=1", f"--object-store-memory={80 * 2**20}"]
    command = [RAY, "start", "--head", "--block", *options]
    with (tmp_path / "head.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield environment, f"http://127.0.0.1:{dashboard}"
    finally:
        process.terminate()
        process.wait(30)


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def test_a_head_that_ends_lets_its_job_drain_and_be_tried_again(head, tmp_path):
    environment, dashboard = head
    (tmp_path / "job.py").write_text(JOB)
    mark = tmp_path / "mark"
    runtime = '{"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60"}}'
    command = [RAY, "job", "submit", "--address", dashboard, "--no-wait", "--submission-id", "one"]
    command += ["--runtime-env-json", runtime, "--", sys.executable, str(tmp_path / "job.py"), str(mark)]
    wait_for(lambda: subprocess.run(command, env=environment, capture_output=True).returncode == 0)
    wait_for(mark.exists)
    stop = [sys.executable, "-m", "pipelines.pod_stop", "head", "--limit-s", "60", "--dashboard", dashboard]
    done = subprocess.run(stop, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert mark.read_text() == "drained", done.stderr
    assert "stopping job one" in done.stderr
    status = subprocess.run(
        [RAY, "job", "status", "--address", dashboard, "one"], env=environment, capture_output=True, text=True
    )
    assert "'one' failed" in status.stdout + status.stderr  # not stopped: KubeRay tries again what failed
    stop[3:] = ["worker", "--limit-s", "30"]  # it finds the head's note, and no engines at work
    done = subprocess.run(stop, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, "may be lost" in done.stderr) == (0, False), done.stderr


def wait_for(condition, timeout_s=90):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(1)
