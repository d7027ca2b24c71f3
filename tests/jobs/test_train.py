from pathlib import Path

from jobs.train import main

CONFIG = str(Path(__file__).parents[2] / "configs" / "train" / "demo-head.yaml")


def test_a_mistake_is_one_line_and_exit_code_2(capsys):
    assert main(["--config", CONFIG, "--set", "head.block_size=1"]) == 2
    assert capsys.readouterr().err == "config error: head.block_size must be >= 2, got 1\n"


def test_missing_data_is_told_before_any_training(capsys, tmp_path):
    settings = [f"output.path={tmp_path / 'head'}", "backbone=no-such-place"]
    assert main(["--config", CONFIG, *[part for s in settings for part in ("--set", s)]]) == 2
    assert "no-such-place" in capsys.readouterr().err
