import json

import pytest
import torch

from tests.benchmarks.gpu.__main__ import main

TINY = ["--device", "cpu", "--shape", "tiny", "--dtypes", "fp32", "--no-compiled", "--layers", "1"]


def test_times_of_a_tiny_model_on_a_cpu_become_tables(tmp_path, capsys):
    options = ["--sections", "bandwidth,step,decode", "--batches", "1,300", "--contexts", "32"]
    assert main([*TINY, *options, "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert [row["T"] for row in report["sections"]["step"]["rows"]] == [64, 32, 16, 128, 256]
    one, many = report["sections"]["decode"]["rows"]
    assert one["ar_tokens_per_s"] > 0
    assert many == {"batch": 300, "context": 32, "result": "does not fit"}
    assert "Acceptance is REPLAYED" in capsys.readouterr().out


def test_training_steps_of_a_tiny_model_on_a_cpu_become_a_table(tmp_path):
    assert main([*TINY, "--sections", "train", "--out", str(tmp_path)]) == 0
    rate, *rows = json.loads((tmp_path / "gpu.json").read_text())["sections"]["train"]["rows"]
    assert rate["matmul_tflops"] > 0
    assert [(row["sequences"], row["layers"]) for row in rows] == [
        (2, "kept"),
        (1, "kept"),
        (4, "computed again"),
    ]
    assert all(0 < row["matmul_share"] < 1 and "passed" not in row for row in rows)


def test_a_used_up_budget_leaves_tables_that_say_so(tmp_path):
    assert main([*TINY, "--sections", "step", "--budget-s", "0", "--out", str(tmp_path)]) == 0
    assert "Stopped: the time budget is used up." in (tmp_path / "gpu.md").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--sections", "speed"], "Input should be 'versions', 'parity'"),
        (["--shape", "9b"], "'tiny', 'demo', '1.7b' or '8b'"),
        (["--layers", "0"], "greater than or equal to 1"),
    ],
)
def test_mistakes_end_with_exit_code_2(options, said, capsys):
    assert main(options) == 2
    assert said in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_missing_device_is_said_with_what_to_try(capsys):
    assert main([]) == 2
    assert "this machine has none; try --device cpu --shape tiny" in capsys.readouterr().err


def test_products_of_a_tiny_model_have_the_same_bits_for_every_number_of_rows(tmp_path):
    assert main([*TINY, "--sections", "versions,products", "--out", str(tmp_path)]) == 0
    sections = json.loads((tmp_path / "gpu.json").read_text())["sections"]
    assert {"what": "torch", "version": torch.__version__} in sections["versions"]["rows"]
    kernel = [row for row in sections["products"]["rows"] if row.get("backend") != "plain"]
    assert len(kernel) == 6
    assert all(row["bits of M=1"] == "all" for row in kernel)


@pytest.mark.slow
def test_engines_of_a_tiny_model_become_tables(tmp_path):
    main([*TINY, "--sections", "ladder,trajectories", "--budget-s", "60", "--out", str(tmp_path)])
    sections = json.loads((tmp_path / "gpu.json").read_text())["sections"]
    start, *rows = sections["ladder"]["rows"]
    assert start["exactness"] == "exact"
    assert {"forward", "cells", "prefill", "AR, 64 sequences"} <= {row["what"] for row in rows}
    assert sections["trajectories"]["rows"][-1]["differing"] == 0
