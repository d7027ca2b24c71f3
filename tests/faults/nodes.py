"""Clusters of simulated nodes as tests see them, and what their nodes did."""

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.runs import Driver
from tests.processes import ROOT, JobProcess


@dataclass(frozen=True)
class Nodes:
    """A running cluster.

    Attributes:
        directory: of tests/faults/cluster.py.
    """

    directory: Path

    @property
    def known(self) -> dict[str, Any]:
        """What cluster.json says."""
        return json.loads((self.directory / "cluster.json").read_text())

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to be let in."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": self.known["token"]}

    def add(self, arguments: Mapping[str, Any] | None = None) -> None:
        """Let one more worker join; does not wait for it."""
        temporary = self.directory / "add.tmp"
        temporary.write_text("" if arguments is None else json.dumps(arguments))
        temporary.rename(self.directory / "add")


@contextmanager
def simulated_nodes(directory: Path, layout: Mapping[str, Any] | None = None) -> Iterator[Nodes]:
    """Start tests/faults/cluster.py; it ends with the block."""
    directory.mkdir()
    command = [sys.executable, str(ROOT / "tests/faults/cluster.py"), str(directory)]
    command += [] if layout is None else [json.dumps(layout)]
    cluster = JobProcess(command, directory, {"PYTHONPATH": str(ROOT)}).start()
    try:
        assert cluster.wait_until((directory / "cluster.json").exists), cluster.log
        yield Nodes(directory)
    finally:
        cluster.below()
        (directory / "stop").touch()
        with suppress(subprocess.TimeoutExpired):
            cluster.process.wait(30)
        cluster.close()


def rows_by_actor(driver: Driver) -> Counter[int]:
    """Rows that each engine's process did, as tests/faults/driver.py printed them."""
    done: Counter[int] = Counter()
    for pid, rows in re.findall(r"unit_done actor=\S+:(\d+) rows=(\d+)", driver.log):
        done[int(pid)] += int(rows)
    return done


def rows_by_node(driver: Driver, marks: Path) -> Counter[str]:
    """Rows that each simulated node did."""
    done: Counter[str] = Counter()
    for pid, rows in rows_by_actor(driver).items():
        done[(marks / str(pid)).read_text()] += rows
    return done


def farthest_from_even(done: Mapping[Any, int]) -> float:
    """The largest distance of a share from the mean, as a part of the mean."""
    mean = sum(done.values()) / len(done)
    return max(abs(rows - mean) for rows in done.values()) / mean
