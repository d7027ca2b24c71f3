"""A run whose driver is killed half-way and started again."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.dataset as ds
import pytest
import yaml

from tests.pipelines.conftest import ROOT, generate_tree, run_tree
from tests.processes import descendants, end_leftovers

pytestmark = [pytest.mark.ray, pytest.mark.timeout(480)]


def start_job(tree: dict, directory: Path) -> subprocess.Popen:
    """Start `jobs/generate.py` as a process with a Ray of its own; what it prints goes to a file `log`."""
    config = directory / "c.yaml"
    config.write_text(yaml.safe_dump(tree))
    command = [sys.executable, str(ROOT / "jobs/generate.py"), "--config", str(config)]
    with open(directory / "log", "wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)


def committed(path: Path) -> list[str]:
    return sorted(file.name for file in (path / "data").glob("part-*.parquet"))


@pytest.mark.slow  # tests/faults kills many more
def test_a_killed_run_started_again_gives_the_rows_of_an_undisturbed_run(
    finished, model_dir, many_prompts, tmp_path
):
    output = tmp_path / "out"
    tree = generate_tree(model_dir, many_prompts, output, unit_rows=16)
    process = start_job(tree, tmp_path)
    while len(committed(output)) < 3:
        assert process.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.02)
    below = descendants(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    end_leftovers(below, patience_s=6)  # all but Ray's monitors are gone after 3
    kept = {name: (output / "data" / name).stat().st_mtime_ns for name in committed(output)}
    assert 3 <= len(kept) < len(finished[0].plan.units)
    assert not (output / "_run/_SUCCESS").exists()

    job, _ = run_tree(tree)

    assert len(job.units) == len(job.plan.units) - len(kept)
    columns = ["id", "sample", "prompt", "completion", "finish_reason", "error", "token_ids"]
    tables = [ds.dataset(one.ledger.data_url).to_table(columns) for one in (job, finished[0])]
    assert tables[0] == tables[1]
    assert (output / "_run/_SUCCESS").exists()
    assert {name: (output / "data" / name).stat().st_mtime_ns for name in kept} == kept
