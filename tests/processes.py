"""Processes that tests start: who is below whom, and the end of those that stay behind."""

import os
import signal
import time
from pathlib import Path


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
