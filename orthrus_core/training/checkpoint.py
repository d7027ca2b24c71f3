"""A trained model as a directory: weights in BF16, config, and how far the run was."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

STATE_FILE = "training.json"


def save_model(
    model: PreTrainedModel,
    directory: Path,
    *,
    state: Mapping[str, Any],
    weights: Mapping[str, Tensor],
) -> None:
    """Write the weights in BF16, the config and `training.json`; the model in memory stays as it is.

    Args:
        weights: the state dict to write, whole and in BF16, though the model may be sharded.
    """
    model.save_pretrained(directory, state_dict=dict(weights))
    # save_pretrained writes the dtype of the model in memory into config.json, not that of the state dict.
    config = copy.deepcopy(model.config)
    config.dtype = torch.bfloat16
    config.save_pretrained(directory)
    (directory / STATE_FILE).write_text(json.dumps(state, indent=1) + "\n")
