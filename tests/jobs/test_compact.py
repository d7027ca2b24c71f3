"""`jobs/compact.py`."""

import importlib.util
from pathlib import Path

import pyarrow.dataset as ds
import pytest
import yaml

from tests.pipelines.generate.compact.finished_run import finished_run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path):
    """Arguments to options of a run that is finished."""
    finished_run(str(tmp_path / "out"))
    tree = {
        "input": {"paths": ["in"], "prompt": {"column": "prompt"}},
        "model": {"path": "model"},
        "output": {"path": str(tmp_path / "out")},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(tree))
    spec = importlib.util.spec_from_file_location("compact", ROOT / "jobs/compact.py")
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return lambda *arguments: module.main(["--config", str(tmp_path / "c.yaml"), *arguments])


def test_it_compacts_the_run_of_a_config(run, tmp_path, capsys):
    assert run("--set", "output.compact.partition_by=language") == 0
    assert "15 rows in 3 files" in capsys.readouterr().out
    assert ds.dataset(tmp_path / "out/compacted", partitioning="hive").count_rows() == 15


def test_a_dry_run_checks_and_writes_nothing(run, tmp_path, capsys):
    assert run("--dry-run") == 0
    assert "would be written to" in capsys.readouterr().out
    assert not (tmp_path / "out/compacted").exists()
    assert run("--dry-run", "--set", "output.compact.partition_by=nothing") == 2
    assert "output.compact.partition_by: no column nothing" in capsys.readouterr().err


def test_a_run_that_is_not_finished_is_a_mistake(run, tmp_path, capsys):
    (tmp_path / "out/_run/_SUCCESS").unlink()
    assert run() == 2
    assert "holds no finished run" in capsys.readouterr().err
