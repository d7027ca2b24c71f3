"""The driver killed at random moments and started again until the run is done."""

import random
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.faults.conftest import assert_whole, stub_tree
from tests.faults.engines import Stub
from tests.faults.runs import Driver, compare

pytestmark = [pytest.mark.fault, pytest.mark.ray, pytest.mark.timeout(600)]

START_S = 16.0  # from the driver's start to its first unit, on a quiet machine
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
    many_prompts, many_texts, tmp_path, drivers, table, seed
):
    driver = Driver(
        stub_tree(many_prompts, tmp_path / "out"), tmp_path, Stub(str(tmp_path / "marks"), step_s=0.03)
    )
    drivers.append(driver)
    killer = Killer(driver, seed, num_units=8 * 19)
    for moment in (*killer.shuffled(MOMENTS), "end"):
        assert killer.kill(signal.SIGKILL, moment), driver.log[-3000:]
    finish(driver)

    outcome = compare(driver.output, many_texts)
    kinds = ", ".join(f"{killer.moments.count(m)} {m}" for m in ("start", "work", "commit", "end"))
    table.add(
        f"SIGKILL of the driver, seed {seed} ({kinds})",
        outcome,
        faults=len(killer.moments),
        runs=len(killer.codes) + 1,
    )
    assert_whole(outcome)
    assert set(killer.codes) == {-signal.SIGKILL}
