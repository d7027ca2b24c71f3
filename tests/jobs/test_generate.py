"""The command line of the generate job."""

import importlib.util
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def main():
    spec = importlib.util.spec_from_file_location("generate_job", ROOT / "jobs/generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    """The shipped demo config on a model directory with the tokenizer and no weights."""
    monkeypatch.chdir(ROOT)
    model = tmp_path / "model"
    model.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (model / name).write_bytes((ROOT / "pipelines/demo/model" / name).read_bytes())
    (model / "config.json").write_text(
        '{"model_type": "orthrus", "vocab_size": 1024, "block_size": 8, "mask_token_id": 3, '
        '"max_position_embeddings": 2048, "hidden_size": 192, "num_hidden_layers": 4, '
        '"intermediate_size": 512, '
        '"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 32}'
    )
    overrides = [f"model.path={model}", f"output.path={tmp_path}/out"]
    return ["--config", "configs/generate/demo.yaml", *(part for o in overrides for part in ("--set", o))]


def error_line(capsys) -> str:
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    return text.strip()


def test_a_dry_run_shows_the_plan_and_three_prompts_and_starts_nothing(main, arguments, capsys, tmp_path):
    assert main([*arguments, "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "4 files, 500 rows" in text
    assert text.count("prompt of row heldout-") == 3
    assert "nothing was generated" in text
    assert not (tmp_path / "out").exists()


def test_a_bad_value_is_one_line_and_exit_code_2(main, arguments, capsys):
    assert main([*arguments, "--set", "run.unit_rows=0"]) == 2
    assert error_line(capsys) == "config error: run.unit_rows must be >= 1, got 0"


def test_a_missing_config_is_exit_code_2(main, capsys):
    assert main(["--config", "nowhere.yaml"]) == 2
    assert error_line(capsys) == "config error: cannot read config nowhere.yaml: No such file or directory"


def test_a_missing_input_is_exit_code_2(main, arguments, capsys):
    assert main([*arguments, "--dry-run", "--set", "input.paths=nothing/*.parquet"]) == 2
    assert error_line(capsys) == f"config error: input.paths: no file at nothing/*.parquet (looked in {ROOT})"


def test_a_missing_model_is_exit_code_2(main, arguments, capsys):
    assert main([*arguments, "--dry-run", "--set", "model.path=./nothing"]) == 2
    assert error_line(capsys) == f"config error: model.path: no directory ./nothing (looked in {ROOT})"


def test_a_quantised_model_is_exit_code_2_in_a_dry_run(main, arguments, capsys, tmp_path):
    config = tmp_path / "model/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization": {"bits": 4}}))
    assert main([*arguments, "--dry-run"]) == 2
    assert "model: its weights are quantised (config.quantization)" in error_line(capsys)


@pytest.mark.parametrize("path", ["/etc/hostname/out", "/proc/out"])
def test_a_dry_run_refuses_an_output_that_cannot_be_written(main, arguments, capsys, path):
    assert main([*arguments, "--dry-run", "--set", f"output.path={path}"]) == 2
    assert error_line(capsys).startswith("config error: output.path: cannot write below ")


def test_bad_shards_are_all_named_in_one_line(main, arguments, capsys, tmp_path):
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "one.parquet")
    (tmp_path / "two.parquet").write_bytes(b"no parquet")
    assert main([*arguments, "--dry-run", "--set", f"input.paths={tmp_path}/*.parquet"]) == 2
    line = error_line(capsys)
    assert line.startswith("config error: 2 bad input file(s): ")
    assert "one.parquet: no column prompt, id (it has text)" in line
    assert "two.parquet: unreadable" in line


def test_a_failure_that_is_not_the_users_is_exit_code_1(main, arguments, capsys, monkeypatch):
    from orthrus_core.errors import OrthrusError

    def fail(*args, **kwargs):
        raise OrthrusError("the machine is on fire")

    monkeypatch.setattr("pipelines.generate.build.run_job", fail)
    monkeypatch.setattr("pipelines.cluster.session.RaySession.begin", lambda session: None)
    assert main(arguments) == 1
    assert error_line(capsys) == "failed: the machine is on fire"


def test_the_job_is_short():
    assert len((ROOT / "jobs/generate.py").read_text().splitlines()) <= 80


@pytest.mark.parametrize(("allowed", "code"), [(0.5, 2), (1.0, 0)])
def test_a_dry_run_of_which_every_row_fails_is_exit_code_2(main, arguments, capsys, allowed, code):
    tight = ["decode.max_context=4", "sampling.max_new_tokens=2", f"run.max_error_share={allowed}"]
    assert main([*arguments, *(part for o in tight for part in ("--set", o)), "--dry-run"]) == code
    shown = capsys.readouterr()
    assert shown.out.count("prompt of row heldout-") == 3
    assert ("3 rows tried, every one is an error row: prompt has" in shown.err) == bool(code)
