"""Processes that tests start: waiting for them, who is below whom, and the end of those that stay behind."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[1]
PATIENCE_S = 300.0  # for anything a job does; its start takes 15 s on a quiet machine of 2 cores


def wait_until(
    condition: Callable[[], Any],
    patience_s: float,
    *,
    said: Callable[[], Any] = lambda: "",
    look_s: float = 0.02,
) -> Any:
    """Wait for a condition and return what it gave; `said` tells what is known should it not come to pass."""
    deadline = time.monotonic() + patience_s
    while not (given := condition()):
        assert time.monotonic() < deadline, f"nothing happened in {patience_s} s: {said()}"
        time.sleep(look_s)
    return given


class JobProcess:
    """A command that a test starts, again perhaps, disturbs, and ends with all that it left behind."""

    def __init__(self, command: Sequence[str], directory: Path, environment: Mapping[str, str] | None = None):
        """Start nothing yet.

        Args:
            directory: of the logs.
            environment: variables beside this process's own.
        """
        self._command, self._directory = command, directory
        self._environment = {**os.environ, **(environment or {})}
        self._starts = 0
        self._below: set[tuple[int, str]] = set()
        self.process: subprocess.Popen | None = None

    def start(self, **streams: Any) -> Self:
        """Start the command; what it prints goes to a log of its own unless `streams` say else."""
        self._starts += 1
        with open(self.log_path, "wb") as log:
            streams = {"stdout": log, "stderr": log, **streams}
            self.process = subprocess.Popen(self._command, cwd=ROOT, env=self._environment, **streams)
        return self

    @property
    def log_path(self) -> Path:
        """The newest process's log."""
        return self._directory / f"log-{self._starts}"

    @property
    def log(self) -> str:
        """What the newest process printed."""
        return self.log_path.read_text(errors="replace")

    @property
    def is_running(self) -> bool:
        """Whether the newest process has not ended."""
        return self.process.poll() is None

    def wait_until(
        self, is_so: Callable[[], bool], *, patience_s: float = PATIENCE_S, look_s: float = 0.02
    ) -> bool:
        """Wait for something while the process runs; whether it came to pass before the process ended."""
        deadline = time.monotonic() + patience_s
        while self.is_running:
            if is_so():
                return True
            assert time.monotonic() < deadline, f"nothing happened in {patience_s} s: {self.log[-3000:]}"
            time.sleep(look_s)
        return is_so()

    def wait(self, patience_s: float = PATIENCE_S) -> int:
        """The exit code of the newest process."""
        try:
            return self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {patience_s} s: {self.log[-3000:]}") from None

    def below(self) -> set[tuple[int, str]]:
        """Processes below it, those of earlier looks among them: `close` ends them."""
        self._below |= descendants(self.process.pid)
        return self._below

    def signal(self, number: int) -> None:
        """Send the process a signal, after a look at what is below it."""
        self.below()
        self.process.send_signal(number)

    def close(self, patience_s: float = 4) -> None:
        """End the process, and what it left behind once that had time to end by itself."""
        if self.process is not None and self.is_running:
            self.signal(signal.SIGKILL)
            self.process.wait()
        end_leftovers(self._below, patience_s)


def descendants(pid: int) -> set[tuple[int, str]]:
    """Processes below a process: (id, start time), so that an id used again is not mistaken."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        if (fields := _stat(path)) is not None:
            parents[int(path.parent.name)] = (int(fields[1]), fields[19])
    found = {pid}
    while True:
        more = {child for child, (parent, _) in parents.items() if parent in found} - found
        if not more:
            return {(one, parents[one][1]) for one in found if one in parents and one != pid}
        found |= more


def end_leftovers(processes: set[tuple[int, str]], patience_s: float) -> None:
    """Wait for processes of a killed run to end, then end those that do not."""
    deadline = time.monotonic() + patience_s
    while living := {(pid, start) for pid, start in processes if is_living(pid, start)}:
        if time.monotonic() > deadline:
            for pid, _ in living:
                kill(pid)
            return
        time.sleep(0.1)


def is_living(pid: int, start: str) -> bool:
    """Whether a process is still the one that began at `start`, and runs."""
    fields = _stat(Path(f"/proc/{pid}/stat"))
    return fields is not None and fields[19] == start and fields[0] != "Z"


def kill(pid: int, number: int = signal.SIGKILL) -> bool:
    """Send a signal; whether the process was still there."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _stat(path: Path) -> list[str] | None:
    try:
        return path.read_text().rpartition(")")[2].split()
    except OSError:  # it has ended
        return None
