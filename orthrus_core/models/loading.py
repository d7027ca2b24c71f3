"""Loading a checkpoint with a head, whatever its config.json calls itself."""

import json
from pathlib import Path

import torch
from transformers import PreTrainedConfig

from orthrus_core.errors import CheckpointError
from orthrus_core.models.config import PUBLISHED_MODEL_TYPES, OrthrusConfig
from orthrus_core.models.model import OrthrusLM


def load_model(
    path: str | Path, *, dtype: torch.dtype | str = "auto", device: torch.device | str = "cpu"
) -> OrthrusLM:
    """Load a backbone with its diffusion head from a local directory or a hub id.

    Published checkpoints say `model_type: qwen3` with `architectures: [OrthrusLM]`; the Auto classes would load
    those as a plain Qwen3 and drop the head, this function does not.

    Args:
        path: directory with config.json and safetensors (one file or sharded), or a hub id.
        dtype: dtype of the weights; "auto" keeps the checkpoint's.
        device: where to put the model.
    Raises:
        CheckpointError: no such checkpoint, another architecture, or tensors that do not fit.
    """
    config = load_config(path)
    try:
        model = OrthrusLM.from_pretrained(str(path), config=config, dtype=dtype, use_safetensors=True)
    except OSError as error:
        raise CheckpointError(f"{path}: no loadable safetensors weights: {_first_line(error)}") from error
    return model.to(device).eval()


def load_config(path: str | Path) -> OrthrusConfig:
    """Read config.json as an Orthrus config and check its head.

    Raises:
        CheckpointError: config.json is missing or unreadable, of another model type, or its head cannot draft.
    """
    if Path(path).is_dir() and not (Path(path) / "config.json").is_file():
        raise CheckpointError(f"{path}: has no config.json; point model.path at a checkpoint directory")
    try:
        fields, _ = PreTrainedConfig.get_config_dict(str(path))
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: cannot read config.json: {_first_line(error)}") from error
    if not fields:
        raise CheckpointError(f"{path}: is neither a checkpoint directory nor a reachable hub id")
    model_type = fields.pop("model_type", None)
    if model_type not in PUBLISHED_MODEL_TYPES:
        raise CheckpointError(
            f"{path}: config.model_type must be one of {', '.join(PUBLISHED_MODEL_TYPES)}, got {model_type}"
        )
    if "block_size" not in fields:
        raise CheckpointError(
            f"{path}: config.block_size is missing: this is a plain backbone without a diffusion head; "
            "add one with orthrus_core.add_diffusion_head"
        )
    config = OrthrusConfig(**fields)
    config.check_head()
    return config


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
