"""Two drivers on one output, and the lock between them."""

import json
import os
import threading
import time
from pathlib import Path

import pytest

from orthrus_core.errors import ConfigError
from pipelines.cluster.lock import RunLock
from tests.faults.engines import Stub

pytestmark = [pytest.mark.fault, pytest.mark.ray, pytest.mark.timeout(600)]


def test_of_two_drivers_at_once_the_second_is_refused_and_the_first_finishes(
    few_tree, few_texts, tmp_path, new_driver, table
):
    stub = Stub(str(tmp_path / "marks"), step_s=0.1)
    first, second = (new_driver(few_tree, stub, tmp_path / name).start() for name in ("a", "b"))
    codes = sorted((first.wait(), second.wait()))
    refused = first if first.process.returncode else second
    last = refused.log.strip().split("\n")[-1]
    table.assert_whole(
        "two drivers started at once", first.output, few_texts, faults=1, runs=2, said=last[:110]
    )
    assert codes == [0, 2]
    assert "another run is at work there" in last


def test_a_driver_whose_lock_is_taken_over_stops_and_the_other_finishes(
    few_tree, few_texts, tmp_path, new_driver, table
):
    driver = new_driver(few_tree, Stub(str(tmp_path / "marks"), step_s=0.15)).start()
    assert driver.wait_until(lambda: len(driver.committed()) >= 1)
    lock = Path(few_tree["output"]["path"], "_run/lock")
    lock.write_text(json.dumps(json.loads(lock.read_text()) | {"id": "another", "host": "elsewhere"}))
    assert driver.wait() == 1
    last = driver.log.strip().split("\n")[-1]
    assert "another driver took" in last
    lock.unlink()
    driver.start()
    assert driver.wait() == 0, driver.log[-3000:]
    scenario = "a driver's lock is taken over while it works"
    table.assert_whole(scenario, driver.output, few_texts, faults=1, runs=2, said=last[:110])


@pytest.mark.parametrize("hours", [-30, 30])
def test_clocks_that_are_hours_apart_do_not_matter_to_the_lock(tmp_path, table, hours, monkeypatch):
    run_url = str(tmp_path / "_run")
    now = time.time
    monkeypatch.setattr("time.time", lambda: now() + 3600 * hours)
    quick = {"beat_s": 0.1, "stale_s": 2.0, "settle_s": 0.1}
    stop = threading.Event()

    def disturb() -> None:
        while not stop.wait(0.02):
            owner_time = now() - 3600 * hours
            try:
                os.utime(tmp_path / "_run/lock", (owner_time, owner_time))
            except FileNotFoundError:
                continue

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        with (
            RunLock(run_url, **quick),
            pytest.raises(ConfigError, match="another run is at work") as caught,
            RunLock(run_url, **quick),
        ):
            pass
        dead = {"id": "x", "host": "elsewhere", "boot": "b", "pid": 1, "started": "1", "beats": 3}
        (tmp_path / "_run/lock").write_text(json.dumps(dead))
        with RunLock(run_url, **quick) as lock:
            lock.check()
    finally:
        stop.set()
        thread.join()
    table.add(
        f"clocks {hours} h apart: living lock, dead lock", runs=4, faults=2, said=str(caught.value)[:110]
    )


def test_a_half_written_lock_is_waited_for_and_taken_over(tmp_path):
    lock = tmp_path / "_run/lock"
    lock.parent.mkdir()
    lock.write_bytes(b'{"id": "x", "ho')
    with RunLock(str(lock.parent), beat_s=0.1, stale_s=0.5, settle_s=0.1) as held:
        held.check()
