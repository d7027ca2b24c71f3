"""Worker nodes that are lost in the middle of a run."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.engines import Stub
from tests.faults.nodes import Nodes, simulated_nodes
from tests.processes import descendants, kill

pytestmark = [pytest.mark.fault, pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.fixture
def cluster(tmp_path) -> Iterator[Nodes]:
    """A running cluster of two workers."""
    with simulated_nodes(tmp_path / "cluster") as nodes:
        yield nodes


def kill_node(raylet: int) -> int:
    """SIGKILL a node: its raylet and all that it started; how many processes."""
    victims = [raylet, *(pid for pid, _ in descendants(raylet))]
    return sum(kill(pid) for pid in victims)


@pytest.mark.parametrize("is_replaced", [True, False])
def test_the_units_of_a_lost_node_are_done_elsewhere(
    cluster, few_tree, few_texts, tmp_path, new_driver, table, is_replaced
):
    known = cluster.known
    few_tree["run"] |= {"ray_address": known["address"], "actors": 2, "cpus_per_actor": 2.0}
    marks = tmp_path / "marks"
    driver = new_driver(few_tree, Stub(str(marks), step_s=0.1), environment=cluster.environment).start()
    assert driver.wait_until(lambda: len(driver.committed()) >= 3 and len(list(marks.glob("*"))) == 2)
    before = len(driver.committed())
    victims = [raylet for raylet in known["raylets"] if _hosts_actor(raylet, marks)]
    processes = kill_node(victims[0])
    if is_replaced:
        time.sleep(2)
        cluster.add()
    assert driver.wait() == 0, driver.log[-3000:]
    how = "replaced 2 s later" if is_replaced else "not replaced"
    scenario = f"SIGKILL of a worker node ({processes} processes), {how}"
    table.assert_whole(scenario, driver.output, few_texts, faults=1)
    assert before < 20


def _hosts_actor(raylet: int, marks: Path) -> bool:
    below = {pid for pid, _ in descendants(raylet)}
    return any(int(mark.name) in below for mark in marks.iterdir())
