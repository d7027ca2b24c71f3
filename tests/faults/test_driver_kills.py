"""The driver killed at random moments and started again until the run is done."""

import json
import random
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from tests.faults.conftest import DEMO_MODEL, stub_tree
from tests.faults.engines import Stub
from tests.faults.runs import Driver, texts_of
from tests.pipelines.conftest import ROOT, generate_tree, run_tree

pytestmark = [pytest.mark.fault, pytest.mark.ray, pytest.mark.timeout(900)]

START_S = 9.0  # from the driver's start to its first unit, on a quiet machine
MOMENTS = ("start", "start", "start", "work", "work", "work", "commit", "commit")


class Killer:
    """Kills drivers of one output at seeded moments.

    Moments: "start" (within the time until the first unit: imports, checks, Ray's start, loading), "work"
    (after a few units more), "commit" (while a file is on its way to its name) and "end" (all units there,
    the report not).
    """

    def __init__(self, driver: Driver, seed: int, num_units: int):
        self._driver, self._num_units = driver, num_units
        self._random = random.Random(seed)  # which moments come when, and how long after what they wait for
        self.moments: list[str] = []
        self.codes: list[int] = []

    def kill(self, number: int, moment: str) -> bool:
        """Start a driver and send it a signal; whether the signal came before its end."""
        driver = self._driver
        driver.start()
        if not getattr(self, f"_wait_for_{moment}")():
            self.codes.append(driver.wait())
            return False
        driver.signal(number)
        self.codes.append(driver.wait())
        self.moments.append(moment)
        return True

    def shuffled(self, moments: Sequence[str]) -> list[str]:
        """The moments in a seeded order."""
        return self._random.sample(moments, len(moments))

    def _wait_for_start(self) -> bool:
        return not self._sleep(self._random.uniform(0.3, START_S))

    def _wait_for_work(self) -> bool:
        before, more = len(self._driver.committed()), self._random.randint(1, 6)
        self._driver.wait_until(lambda: len(self._driver.committed()) >= before + more)
        return not self._sleep(self._random.uniform(0, 0.2))

    def _wait_for_commit(self) -> bool:
        data, before = Path(self._driver.output, "data"), len(self._driver.committed())
        self._driver.wait_until(lambda: len(self._driver.committed()) > before)
        self._driver.wait_until(lambda: next(data.glob(".*.tmp"), None) is not None, look_s=0.0005)
        return self._driver.is_running

    def _wait_for_end(self) -> bool:
        self._driver.wait_until(lambda: len(self._driver.committed()) == self._num_units, look_s=0.002)
        return self._driver.is_running

    def _sleep(self, seconds: float) -> bool:
        """Let time pass; whether the driver ended before."""
        try:
            self._driver.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True


def finish(driver: Driver) -> None:
    """Start a driver and let it finish."""
    driver.start()
    assert driver.wait() == 0, driver.log[-3000:]
    assert Path(driver.output, "_run/_SUCCESS").exists()
    assert not list(Path(driver.output).rglob("*.tmp"))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_driver_killed_nine_times_leaves_every_row_once(
    many_prompts, many_texts, tmp_path, new_driver, table, seed
):
    tree = stub_tree(many_prompts, tmp_path / "out")
    driver = new_driver(tree, Stub(str(tmp_path / "marks"), step_s=0.02))
    killer = Killer(driver, seed, num_units=8 * 19)
    for moment in (*killer.shuffled(MOMENTS), "end"):
        assert killer.kill(signal.SIGKILL, moment), driver.log[-3000:]
    finish(driver)

    kinds = ", ".join(f"{killer.moments.count(m)} {m}" for m in ("start", "work", "commit", "end"))
    table.assert_whole(
        f"SIGKILL of the driver, seed {seed} ({kinds})",
        driver.output,
        many_texts,
        faults=len(killer.moments),
        runs=len(killer.codes) + 1,
    )
    assert set(killer.codes) == {-signal.SIGKILL}


def test_a_driver_drained_three_times_by_sigterm_goes_on_each_time(
    many_prompts, many_texts, tmp_path, new_driver, table
):
    tree = stub_tree(many_prompts, tmp_path / "out")
    driver = new_driver(tree, Stub(str(tmp_path / "marks"), step_s=0.02))
    killer = Killer(driver, seed=4, num_units=8 * 19)
    for moment in ("work", "commit", "work"):
        assert killer.kill(signal.SIGTERM, moment), driver.log[-3000:]
        assert json.loads(Path(driver.output, "_run/report.json").read_text())["status"] == "interrupted"
        assert not Path(driver.output, "_run/lock").exists()
        before = driver.committed()
        time.sleep(1)
        assert driver.committed() == before  # nothing was left at work
    said = driver.log.strip().split("\n")[-1]
    finish(driver)

    scenario, said = "SIGTERM of the driver at work", f"exit code 3: {said}"[:110]
    table.assert_whole(scenario, driver.output, many_texts, faults=3, runs=4, said=said)
    assert killer.codes == [3] * 3


def test_sigterm_while_the_driver_starts_harms_nothing(few_prompts, few_texts, tmp_path, new_driver, table):
    tree = stub_tree(few_prompts, tmp_path / "out")
    driver = new_driver(tree, Stub(str(tmp_path / "marks"), step_s=0.01))
    killer = Killer(driver, seed=5, num_units=20)
    for _ in range(3):
        killer.kill(signal.SIGTERM, "start")
    finish(driver)
    scenario = "SIGTERM of the driver while it starts"
    table.assert_whole(scenario, driver.output, few_texts, faults=len(killer.moments), runs=4)
    # before Python runs our first line, the signal ends it as it ends any process
    assert set(killer.codes) <= {3, 0, -signal.SIGTERM}


def test_the_demo_job_killed_three_times_writes_the_undisturbed_text(stub_ray, tmp_path, new_driver, table):
    tree = demo_tree(tmp_path / "prompts.parquet", tmp_path / "out")
    undisturbed, _ = run_tree(demo_tree(tmp_path / "prompts.parquet", tmp_path / "undisturbed"))
    _, expected = texts_of(undisturbed.ledger.url)
    driver = new_driver(tree)
    killer = Killer(driver, seed=6, num_units=24)
    for moment in ("work", "commit", "work"):
        assert killer.kill(signal.SIGKILL, moment), driver.log[-3000:]
    finish(driver)
    scenario = "SIGKILL of jobs/generate.py with the demo's model"
    table.assert_whole(scenario, driver.output, expected, faults=3, runs=4)
    assert len(expected) == 192


def demo_tree(prompts: Path, output: Path) -> dict[str, Any]:
    """The demo's job over its first 192 prompts."""
    if not prompts.exists():
        table = ds.dataset(ROOT / "pipelines/demo/prompts").to_table()
        pq.write_table(table.slice(0, 192), prompts)
    tree = generate_tree(DEMO_MODEL, prompts, output, unit_rows=8)
    return {**tree, "sampling": {"max_new_tokens": 96}, "decode": {"max_context": 512, "max_sequences": 8}}
