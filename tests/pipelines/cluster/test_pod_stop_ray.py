"""A pod's end on real Ray clusters: a drained node gets no further unit, a stopped head ends its job well."""

import json
import os
import secrets
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).parents[3]
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


def test_a_drained_node_gets_no_further_unit_and_finishes_those_it_has():
    """In a process of its own: this one may be at home in another cluster."""
    environment = os.environ | {
        "PATH": f"{RAY.parent}:{os.environ['PATH']}",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    }
    command = [sys.executable, "-m", "tests.pipelines.cluster.drained_node"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    seen, drained_at = found["seen"], found["drained_at"]
    assert sorted(unit["id"] for unit in seen) == list(range(60))
    # two units in flight of 0.5 s each, and the second in which Ray Data takes notice
    late = [unit for unit in seen if unit["time"] > drained_at + 4]
    assert [unit for unit in late if unit["node"] == found["leaving"]] == []
    assert len(late) > 5


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
    wait_until(
        lambda: subprocess.run(command, env=environment, capture_output=True).returncode == 0, 90, look_s=1
    )
    wait_until(mark.exists, 90)
    stop = [sys.executable, "-m", "pipelines.cluster.pod_stop", "head", "--limit-s", "60"]
    told = [*stop, "--dashboard", dashboard]
    done = subprocess.run(told, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert mark.read_text() == "drained", done.stderr
    assert "stopping job one" in done.stderr
    status = subprocess.run(
        [RAY, "job", "status", "--address", dashboard, "one"], env=environment, capture_output=True, text=True
    )
    assert "'one' failed" in status.stdout + status.stderr  # not stopped: KubeRay tries again what failed
    stop[3:] = ["worker", "--limit-s", "30"]  # it finds the head's note, and no engines at work
    done = subprocess.run(stop, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, "may be lost" in done.stderr) == (0, False), done.stderr
