import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from orthrus_core.errors import ConfigError
from orthrus_core.training.checkpoint import (
    check_output_directory,
    replace_directory,
    round_to_bfloat16,
    save_model,
)
from tests.small_models import small_backbone


def test_a_failing_write_leaves_the_old_directory(tmp_path):
    path = tmp_path / "model"
    replace_directory(path, lambda directory: (directory / "a").write_text("old") and None)

    def fail(directory):
        (directory / "a").write_text("new")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        replace_directory(path, fail)
    assert (path / "a").read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_a_directory_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "deep" / "model"
    replace_directory(path, lambda directory: (directory / "a").write_text("1") and None)
    replace_directory(path, lambda directory: (directory / "b").write_text("2") and None)
    assert [entry.name for entry in path.iterdir()] == ["b"]
    assert [entry.name for entry in path.parent.iterdir()] == ["model"]


def test_a_saved_model_is_bfloat16_with_tied_weights_once(tmp_path):
    model = small_backbone()
    before = model.model.norm.weight.clone()
    save_model(model, tmp_path, state={"step": 3})
    tensors = load_file(tmp_path / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert "lm_head.weight" not in tensors
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    assert json.loads((tmp_path / "training.json").read_text()) == {"step": 3}
    assert torch.equal(model.model.norm.weight, before)


def test_a_model_rounded_in_memory_is_the_saved_one(tmp_path):
    model = small_backbone()
    save_model(model, tmp_path, state={})
    round_to_bfloat16(model)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))


def test_an_output_directory_with_other_things_in_it_is_refused(tmp_path):
    check_output_directory(tmp_path / "absent", overwrite=False)
    check_output_directory(tmp_path, overwrite=False)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="choose another path"):
        check_output_directory(tmp_path, overwrite=True)


def test_a_trained_model_is_replaced_only_on_request(tmp_path):
    (tmp_path / "training.json").touch()
    with pytest.raises(ConfigError, match="output.overwrite=true"):
        check_output_directory(tmp_path, overwrite=False)
    check_output_directory(tmp_path, overwrite=True)
