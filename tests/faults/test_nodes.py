"""Worker nodes that are lost in the middle of a run."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults.conftest import assert_whole
from tests.faults.engines import Stub
from tests.faults.runs import PATIENCE_S, Driver, compare
from tests.pipelines.conftest import ROOT
from tests.processes import descendants, end_leftovers, kill

pytestmark = [pytest.mark.fault, pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.fixture
def cluster(tmp_path):
    """The directory of a running cluster."""
    directory = tmp_path / "cluster"
    directory.mkdir()
    command = [sys.executable, str(ROOT / "tests/faults/cluster.py"), str(directory)]
    with open(directory / "log", "wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
    deadline = time.monotonic() + PATIENCE_S
    while not (directory / "cluster.json").exists():
        assert process.poll() is None, (directory / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    yield directory
    below = descendants(process.pid)
    (directory / "stop").touch()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    end_leftovers(below, patience_s=5)


def kill_node(raylet: int) -> int:
    """SIGKILL a node: its raylet and all that it started; how many processes."""
    victims = [raylet, *(pid for pid, _ in descendants(raylet))]
    return sum(kill(pid) for pid in victims)


@pytest.mark.parametrize("is_replaced", [True, False])
def test_the_units_of_a_lost_node_are_done_elsewhere(
    cluster, few_tree, few_texts, tmp_path, drivers, table, is_replaced
):
    known = json.loads((cluster / "cluster.json").read_text())
    few_tree["run"] |= {"ray_address": known["address"], "actors": 2, "cpus_per_actor": 2.0}
    marks = tmp_path / "marks"
    driver = Driver(few_tree, tmp_path, Stub(str(marks), step_s=0.1))
    drivers.append(driver)
    driver.start()
    assert driver.wait_until(lambda: len(driver.committed()) >= 3 and len(list(marks.glob("*"))) == 2)
    before = len(driver.committed())
    victims = [raylet for raylet in known["raylets"] if _hosts_actor(raylet, marks)]
    processes = kill_node(victims[0])
    if is_replaced:
        time.sleep(2)
        (cluster / "add").touch()
    assert driver.wait() == 0, driver.log[-3000:]
    outcome = compare(driver.output, few_texts)
    how = "replaced 2 s later" if is_replaced else "not replaced"
    table.add(f"SIGKILL of a worker node ({processes} processes), {how}", outcome, faults=1)
    assert_whole(outcome)
    assert before < 20


def _hosts_actor(raylet: int, marks: Path) -> bool:
    below = {pid for pid, _ in descendants(raylet)}
    return any(int(mark.name) in below for mark in marks.iterdir())
