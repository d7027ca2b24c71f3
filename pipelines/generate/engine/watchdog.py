"""A watch over work that may hang, such as a kernel that never comes back."""

import faulthandler
import tempfile
import threading
import time
from collections.abc import Callable

LOOKS = 10  # in each time limit


class Watchdog:
    """Calls back when a step takes too long; a step that is stuck cannot be ended, only its process can.

    Whoever works calls `begin` before and `end` after each step. Where a step is stuck in code that holds
    Python's interpreter lock, no Python runs, this watch included: a timer of faulthandler, which needs no
    lock, then writes all stacks to stderr and ends the process after twice the limit.
    """

    def __init__(self, limit_s: float, on_hang: Callable[[float], None]):
        """Start to watch.

        Args:
            limit_s: seconds that a step may take.
            on_hang: called once, in a thread of its own, with the seconds that the step has taken so far.
        """
        self._limit_s, self._on_hang = limit_s, on_hang
        self._since: float | None = None
        self._stop = threading.Event()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def begin(self) -> None:
        """A step begins."""
        self._since = time.monotonic()

    def end(self) -> None:
        """The step came back."""
        self._since = None

    def close(self) -> None:
        """Watch no longer."""
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.wait(self._limit_s / LOOKS):
            faulthandler.dump_traceback_later(2 * self._limit_s, exit=True)
            since = self._since
            if since is not None and (seconds := time.monotonic() - since) > self._limit_s:
                self._on_hang(seconds)
                break
        faulthandler.cancel_dump_traceback_later()


def all_stacks() -> str:
    """The stacks of this thread and then of all threads, at most 100, in faulthandler's form."""
    with tempfile.TemporaryFile("w+", errors="replace") as file:  # faulthandler writes to a descriptor
        faulthandler.dump_traceback(file, all_threads=False)
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()
