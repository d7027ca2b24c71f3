"""SIGTERM and Ctrl-C: the first asks a job to end well, the second ends it at once."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, Self

INTERRUPTED = 3  # exit code
SIGNALS = (signal.SIGTERM, signal.SIGINT)
ECHO_S = 0.5  # `timeout` and some shells send a signal to the process and then to its group


class Interrupted(KeyboardInterrupt):
    """The operator stopped the job. No Exception, so that nothing handles it as a failure."""


class StopSignals:
    """Handles both signals while a job runs; a context manager, of use in the main thread only.

    A signal raises `Interrupted` where the job is. Within `deferred` the first one only sets `requested`, and
    the next one raises. One more after that ends the process, whatever hangs.

    Attributes:
        requested: set by the first signal.
    """

    def __init__(self) -> None:
        self.requested = threading.Event()
        self._is_deferred = False
        self._num_raised = 0
        self._last_at = float("-inf")
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def install(self) -> None:
        """Handle the signals."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            before = signal.signal(number, self._handle)
            self._before.setdefault(number, before)

    def install_again(self) -> None:
        """Handle the signals after others (`ray.init`) have put handlers of their own; only within `with`."""
        if self._before:
            self.install()

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Within this, the first signal only sets `requested`; whoever is within looks at that.

        Raises:
            Interrupted: a signal came before, and a library on the way swallowed what it raised.
        """
        if self.requested.is_set():
            raise Interrupted("stopped by a signal that came while the job was starting")
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        signal.alarm(0)  # Ray's own handler of SIGTERM calls this one, and has the process aborted 3 s later
        now = time.monotonic()
        is_echo, self._last_at = now - self._last_at < ECHO_S, now
        if is_echo:
            return
        if self._is_deferred and not self.requested.is_set():
            self.requested.set()
            return
        self.requested.set()
        self._num_raised += 1
        if self._num_raised > 1:
            os._exit(INTERRUPTED)
        raise Interrupted(f"stopped by {signal.Signals(number).name}")
