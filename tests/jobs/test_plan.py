import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
JOB = ROOT / "jobs" / "plan.py"
COMMAND = ["--config", "configs/plan/h200-8b.yaml"]


@pytest.fixture
def main(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "120")
    spec = importlib.util.spec_from_file_location("plan_job", JOB)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def test_the_shipped_plan_prints_a_table_per_context(main, capsys):
    assert main(COMMAND) == 0
    shown = capsys.readouterr().out
    assert "qwen3-8b on h200" in shown
    assert "Simulated, not measured" in shown
    for context in ("512", "4,096", "16,384"):
        assert f"context {context}" in shown
    header = next(line for line in shown.splitlines() if "sequences" in line and "AR" in line)
    fixed = ["K=8", "K=16", "K=32"]
    assert header.split() == ["sequences", "AR", *fixed, "adaptive", "best", "K", "adaptive/AR"]


def test_a_load_beyond_the_memory_shows_no_rate(main, capsys):
    assert main([*COMMAND, "--set", "contexts=[16384]", "--set", "batch_sizes=[1, 256]"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert ["256", *["-"] * 7] in rows


def test_measure_compares_the_formula_with_this_machine(main, capsys):
    options = ["--set", "contexts=[512]", "--set", "measured_rows=[8]", "--set", "threads=1"]
    assert main([*COMMAND, *options, "--measure"]) == 0
    shown = capsys.readouterr().out
    assert "ms overhead per forward" in shown
    assert "predicted/measured" in shown


def test_a_mistake_is_one_line_and_exit_code_2():
    command = [sys.executable, "jobs/plan.py", *COMMAND, "--set", "hardware=h300"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("config error: hardware must be one of h200")
    assert "Traceback" not in done.stderr
