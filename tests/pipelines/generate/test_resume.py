"""A run whose driver is killed half-way and started again."""

import sys
from pathlib import Path

import pyarrow.dataset as ds
import pytest
import yaml

from tests.pipelines.conftest import generate_tree, run_tree
from tests.processes import ROOT, JobProcess

pytestmark = [pytest.mark.ray, pytest.mark.timeout(480)]


def generate_job(tree: dict, directory: Path, *before: str) -> JobProcess:
    """`jobs/generate.py` as a process with a Ray of its own; `before` stands before its command."""
    config = directory / "c.yaml"
    config.write_text(yaml.safe_dump(tree))
    command = [sys.executable, str(ROOT / "jobs/generate.py"), "--config", str(config)]
    return JobProcess([*before, *command], directory)


def committed(path: Path) -> list[str]:
    return sorted(file.name for file in (path / "data").glob("part-*.parquet"))


@pytest.mark.slow  # tests/faults kills many more
def test_a_killed_run_started_again_gives_the_rows_of_an_undisturbed_run(
    finished, model_dir, many_prompts, tmp_path
):
    output = tmp_path / "out"
    tree = generate_tree(model_dir, many_prompts, output, unit_rows=16)
    process = generate_job(tree, tmp_path).start()
    assert process.wait_until(lambda: len(committed(output)) >= 3), process.log
    process.close(patience_s=6)  # all but Ray's monitors are gone after 3
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
