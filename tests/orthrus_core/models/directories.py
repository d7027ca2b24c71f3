"""Model directories for tests: saved, spoiled and compared."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

V_PROJ_DIFF = "model.layers.1.self_attn.v_proj_diff.weight"


def save(model, directory: Path, **options) -> Path:
    model.save_pretrained(directory, **options)
    return directory


def edit_config(directory: Path, *remove: str, **fields) -> None:
    path = directory / "config.json"
    config = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({name: value for name, value in config.items() if name not in remove}))


def edit_tensors(directory: Path, *remove: str, **tensors: Tensor) -> None:
    path = directory / "model.safetensors"
    state = load_file(path) | tensors
    save_file({name: tensor for name, tensor in state.items() if name not in remove}, path, {"format": "pt"})


def assert_same_bits(model, expected) -> None:
    state = model.state_dict()
    assert state.keys() == expected.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        assert state[name].dtype == tensor.dtype, name
        assert torch.equal(state[name], tensor), name
