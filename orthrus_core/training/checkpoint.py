"""Model directories that are complete or absent, never half written."""

import copy
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from orthrus_core.errors import ConfigError

STATE_FILE = "training.json"


def replace_directory(path: Path, write: Callable[[Path], None]) -> None:
    """Fill a temporary directory beside `path` with `write`, then put it in place by renaming.

    A failing `write` leaves `path` as it was. A reader can see the old directory, the new one or, for the
    moment between two renames, none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        fresh = scratch / "new"
        fresh.mkdir()
        write(fresh)
        if path.exists():
            path.rename(scratch / "old")
        fresh.rename(path)
    finally:
        shutil.rmtree(scratch)


def check_output_directory(path: Path, *, overwrite: bool) -> None:
    """Refuse an output directory whose contents a run would destroy.

    Raises:
        ConfigError: `path` holds something else than a training output, or one and `overwrite` is off.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not (path / STATE_FILE).is_file():
        raise ConfigError(f"output.path {path} is not empty and no training output: choose another path")
    if not overwrite:
        raise ConfigError(f"output.path {path} holds a model: set output.overwrite=true to replace it")


def round_to_bfloat16(model: PreTrainedModel) -> None:
    """Round every floating-point parameter to BF16 in place, its dtype unchanged."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(torch.bfloat16))


def bfloat16_state(model: PreTrainedModel) -> dict[str, Tensor]:
    """The state dict as it is saved: floating-point tensors rounded to BF16, tied tensors still tied."""
    rounded: dict[int, Tensor] = {}
    state = {}
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            value = rounded.setdefault(value.data_ptr(), value.detach().to(torch.bfloat16))
        state[name] = value
    return state


def save_model(
    model: PreTrainedModel,
    directory: Path,
    *,
    state: Mapping[str, Any],
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the weights in BF16, the config and `training.json`; the model in memory stays as it is.

    Args:
        weights: the state dict to write, whole and in BF16, of a model that is sharded; None: the model's.
    """
    model.save_pretrained(directory, state_dict=dict(weights) if weights else bfloat16_state(model))
    # save_pretrained writes the dtype of the model in memory into config.json, not that of the state dict.
    config = copy.deepcopy(model.config)
    config.dtype = torch.bfloat16
    config.save_pretrained(directory)
    (directory / STATE_FILE).write_text(json.dumps(state, indent=1) + "\n")
