"""Drivers as processes of their own, which tests disturb, and what their output must be afterwards."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import yaml

from pipelines.storage.files import list_directory
from tests.faults.engines import Stub
from tests.pipelines.conftest import ROOT
from tests.processes import descendants, end_leftovers, is_living

PATIENCE_S = 300.0  # for anything a driver does; its start takes 15 s on a quiet machine of 2 cores


@dataclass(frozen=True)
class Outcome:
    """What a run's output holds, against an undisturbed run's.

    Attributes:
        rows_in, rows_out: of the input, and in data/.
        duplicates: rows whose (id, sample) another row has.
        differing: rows whose completion or error is another than the undisturbed run's.
    """

    rows_in: int
    rows_out: int
    duplicates: int
    differing: int

    @property
    def is_whole(self) -> bool:
        """Whether nothing is lost, doubled or changed."""
        return self.rows_in == self.rows_out and not self.duplicates and not self.differing


Texts = dict[tuple[str, int], tuple[str | None, str | None]]


def texts_of(url: str, filesystem: Any = None) -> tuple[list[tuple[str, int]], Texts]:
    """The keys (id, sample) of all rows in data/, and completion and error by key."""
    path = f"{url}/data" if filesystem is None else f"{url}/data".removeprefix("s3://")
    table = ds.dataset(path, filesystem=filesystem, format="parquet").to_table(
        ["id", "sample", "completion", "error"]
    )
    rows = table.to_pylist()
    keys = [(row["id"], row["sample"]) for row in rows]
    return keys, {key: (row["completion"], row["error"]) for key, row in zip(keys, rows, strict=True)}


def compare(url: str, expected: Texts, filesystem: Any = None) -> Outcome:
    """Hold an output against the texts of an undisturbed run over the same input."""
    keys, texts = texts_of(url, filesystem)
    differing = sum(texts.get(key) != text for key, text in expected.items() if key in texts)
    return Outcome(len(expected), len(keys), len(keys) - len(set(keys)), differing)


class Driver:
    """Drivers of one job, one after the other, each with a Ray of its own unless the config says else."""

    def __init__(
        self,
        tree: Mapping[str, Any],
        directory: Path,
        engine: Stub | None = None,
        environment: Mapping[str, str] | None = None,
    ):
        """Write the config.

        Args:
            environment: more variables for the drivers.
            engine: a stub, run by tests/faults/driver.py; None: jobs/generate.py with the real engine.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self.tree, self.directory, self.output = tree, directory, tree["output"]["path"]
        config = directory / "config.yaml"
        config.write_text(yaml.safe_dump(dict(tree)))
        script, more = ("tests/faults/driver.py", [json.dumps(asdict(engine))]) if engine else (None, [])
        self._command = [sys.executable, str(ROOT / (script or "jobs/generate.py"))]
        self._command += [str(config), *more] if engine else ["--config", str(config)]
        self._starts, self._environment = 0, dict(environment or {})
        self._below: set[tuple[int, str]] = set()
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        """Start a driver; what it prints goes to a log of its own."""
        self._starts += 1
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **self._environment}
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log, cwd=ROOT, env=environment)

    @property
    def log_path(self) -> Path:
        """The newest driver's log."""
        return self.directory / f"log-{self._starts}"

    @property
    def log(self) -> str:
        """What the newest driver printed."""
        return self.log_path.read_text(errors="replace")

    @property
    def is_running(self) -> bool:
        """Whether the newest driver has not ended."""
        return self.process.poll() is None

    def committed(self) -> set[str]:
        """Names of the files in data/."""
        return {name for name in list_directory(f"{self.output}/data") if not name.startswith(".")}

    def wait_until(self, is_so: Callable[[], bool], *, patience_s: float = PATIENCE_S, look_s: float = 0.02):
        """Wait for something while the driver runs; whether it came to pass before the driver ended."""
        deadline = time.monotonic() + patience_s
        while self.is_running:
            if is_so():
                return True
            assert time.monotonic() < deadline, f"nothing happened in {patience_s} s: {self.log[-3000:]}"
            time.sleep(look_s)
        return is_so()

    def signal(self, number: int) -> None:
        """Send the driver a signal, after a look at what is below it."""
        self._below |= descendants(self.process.pid)
        self.process.send_signal(number)

    def wait(self, patience_s: float = PATIENCE_S) -> int:
        """The exit code of the newest driver."""
        try:
            return self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {patience_s} s: {self.log[-3000:]}") from None

    def actors(self, marks: Path) -> list[int]:
        """Processes of stub engines that run."""
        below = {pid for pid, start in descendants(self.process.pid) if is_living(pid, start)}
        return [int(mark.name) for mark in marks.glob("*") if int(mark.name) in below]

    def close(self) -> None:
        """End the driver and all that it left behind."""
        if self.process is not None and self.is_running:
            self.signal(9)
            self.process.wait()
        end_leftovers(self._below, patience_s=4)
