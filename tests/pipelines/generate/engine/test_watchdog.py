"""The watch over steps that hang."""

import subprocess
import sys
import threading
import time

from pipelines.generate.engine.watchdog import Watchdog, all_stacks
from tests.pipelines.conftest import ROOT

STUCK = """
import ctypes, time
from pipelines.generate.engine.watchdog import Watchdog

watchdog = Watchdog(0.3, print)
watchdog.begin()
time.sleep(0.2)
ctypes.PyDLL(None).sleep(60)  # a C call that keeps the interpreter lock
"""


def test_a_step_that_takes_too_long_is_told_once():
    told: list[float] = []
    watchdog = Watchdog(0.1, told.append)
    watchdog.begin()
    time.sleep(0.5)
    watchdog.close()
    assert len(told) == 1
    assert told[0] > 0.1


def test_many_short_steps_are_no_hang():
    told: list[float] = []
    watchdog = Watchdog(0.2, told.append)
    for _ in range(30):
        watchdog.begin()
        time.sleep(0.01)
        watchdog.end()
    watchdog.close()
    assert told == []


def test_waiting_for_work_is_no_hang():
    told: list[float] = []
    watchdog = Watchdog(0.1, told.append)
    watchdog.begin()
    watchdog.end()
    time.sleep(0.4)
    watchdog.close()
    assert told == []


def test_a_step_that_holds_the_interpreter_lock_ends_the_process_with_its_stacks():
    done = subprocess.run(
        [sys.executable, "-c", STUCK], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert "Timeout" in done.stderr
    assert "line 8 in <module>" in done.stderr


def test_the_stacks_name_every_thread():
    waits = threading.Event()
    other = threading.Thread(target=waits.wait)
    other.start()
    text = all_stacks()
    waits.set()
    other.join()
    assert "in wait" in text
    assert "test_the_stacks_name_every_thread" in text
