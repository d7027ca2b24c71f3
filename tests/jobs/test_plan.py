import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def main(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "120")
    spec = importlib.util.spec_from_file_location("plan_job", ROOT / "jobs" / "plan.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    command = ["--config", "configs/generate/demo.yaml", "--set", f"output.path={tmp_path}/out"]
    return lambda *options: module.main([*command, *options])


def test_a_generate_config_is_all_that_a_plan_needs(main, capsys):
    assert main("--set", "plan.card=h100") == 0
    assert "500 of 500" in capsys.readouterr().out


def test_a_mistake_is_one_line_and_exit_code_2(main, capsys):
    assert main("--set", "plan.card=h300") == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("config error: plan.card must be h100")
