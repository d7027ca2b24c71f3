"""Drivers as processes of their own, which tests disturb, and what their output must be afterwards."""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import yaml

from pipelines.storage.files import list_directory
from tests.faults.engines import Stub
from tests.processes import ROOT, JobProcess, descendants, is_living


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


class Driver(JobProcess):
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
        self.output = tree["output"]["path"]
        config = directory / "config.yaml"
        config.write_text(yaml.safe_dump(dict(tree)))
        script = ["jobs/generate.py", "--config", str(config)]
        if engine:
            script = ["tests/faults/driver.py", str(config), json.dumps(asdict(engine))]
        variables = {"PYTHONPATH": str(ROOT), **(environment or {})}
        super().__init__([sys.executable, *script], directory, variables)

    def committed(self) -> set[str]:
        """Names of the files in data/."""
        return {name for name in list_directory(f"{self.output}/data") if not name.startswith(".")}

    def actors(self, marks: Path) -> list[int]:
        """Processes of stub engines that run."""
        below = {pid for pid, start in descendants(self.process.pid) if is_living(pid, start)}
        return [int(mark.name) for mark in marks.glob("*") if int(mark.name) in below]
