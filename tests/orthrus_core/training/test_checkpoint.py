import json

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from orthrus_core.training.checkpoint import save_model
from orthrus_core.training.parallel import Parallel
from tests.small_models import small_backbone


def rounded_weights(model) -> dict[str, torch.Tensor]:
    return Parallel().whole_state(model, dtype=torch.bfloat16)


def test_a_saved_model_is_bfloat16_with_tied_weights_once(tmp_path):
    model = small_backbone()
    before = model.model.norm.weight.clone()
    save_model(model, tmp_path, state={"step": 3}, weights=rounded_weights(model))
    tensors = load_file(tmp_path / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert "lm_head.weight" not in tensors
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    assert json.loads((tmp_path / "training.json").read_text()) == {"step": 3}
    assert torch.equal(model.model.norm.weight, before)


def test_weights_can_be_given_for_a_model_that_is_sharded(tmp_path):
    model = small_backbone()
    weights = {name: value.to(torch.bfloat16) * 2 for name, value in model.state_dict().items()}
    save_model(model, tmp_path, state={}, weights=weights)
    found = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(found[name], weights[name]) for name in found)


def test_a_saved_model_is_the_one_in_memory_rounded(tmp_path):
    model = small_backbone()
    save_model(model, tmp_path, state={}, weights=rounded_weights(model))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    rounded = (parameter.to(torch.bfloat16).float() for parameter in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(rounded, loaded.parameters(), strict=True))
