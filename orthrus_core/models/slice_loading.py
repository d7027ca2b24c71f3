"""Loading a rank's slice of a checkpoint: nothing else of the weights is read."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import GenerationConfig
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from orthrus_core.errors import CheckpointError, ConfigError
from orthrus_core.models.checkpoint import TIED, check_shapes, read_shapes, weight_files
from orthrus_core.models.config import DIFFUSION_SUFFIX, DualViewConfig
from orthrus_core.models.head import reset_diffusion_head
from orthrus_core.models.loading import load_config, local_directory
from orthrus_core.models.model import OrthrusLM
from orthrus_core.models.requirements import UnsupportedBackboneError
from orthrus_core.models.slices import (
    Shape,
    check_slices,
    connect,
    cuts,
    is_summed,
    new_slice,
    new_whole,
    shapes_of,
)
from orthrus_core.models.trial import check_agreement
from orthrus_core.ranks import Ranks

logger = logging.getLogger(__name__)


def load_slice(
    path: str | Path, ranks: Ranks, *, dtype: torch.dtype | str = "auto", needs_head: bool = True
) -> OrthrusLM:
    """Load a rank's slice of a model, as `load_model` loads the whole; every rank calls this at once.

    Args:
        path: directory with config.json and safetensors (one file or sharded), or a hub id.
        ranks: of which this process is one; they have the model together afterwards.
        dtype: dtype of the weights; "auto" keeps the checkpoint's.
        needs_head: False: a plain backbone is fine too, see `load_model`.
    Returns:
        The model in evaluation mode, on the rank's device: for an `Engine` on rank 0, for `follow` elsewhere.
    Raises:
        ConfigError: the ranks cannot share this model.
        CheckpointError: no such checkpoint, another architecture, or tensors that do not fit.
    """
    started_at = time.perf_counter()
    directory = local_directory(path)
    config = load_config(directory, needs_head=needs_head)
    check_slices(config, ranks.size)
    try:
        whole = _checked_shapes(directory, config)
        with torch.device(ranks.device):
            model = new_slice(config, ranks.size, _dtype(dtype, directory, config))
        _read_into(model, directory, whole, ranks)
        connect(model, ranks)
        if not config.has_head:
            reset_diffusion_head(model)
            check_agreement(model)
    except UnsupportedBackboneError as error:
        raise CheckpointError(f"{path}: {error}") from error
    model.generation_config = _generation_config(directory, model)
    logger.info(
        "loaded slice=%d/%d dtype=%s device=%s seconds=%.1f",
        *(ranks.rank, ranks.size, model.dtype, ranks.device, time.perf_counter() - started_at),
    )
    return model.eval()


def _checked_shapes(directory: str, config: DualViewConfig) -> dict[str, Shape]:
    """Return the shapes of the whole model's tensors, all of which the checkpoint has."""
    if get_checkpoint_conversion_mapping(config.backbone_type) is not None:
        raise ConfigError(
            f"{directory}: its tensors are not those of the model, so ranks cannot read slices of them: load "
            "the model, save it and take that, or set tensor_parallel to 1"
        )
    with torch.device("meta"):
        whole = shapes_of(new_whole(config))
    stored = {name: shape for name, shape in whole.items() if config.has_head or DIFFUSION_SUFFIX not in name}
    check_shapes(directory, read_shapes(directory), stored, tied=TIED if config.tie_word_embeddings else {})
    return whole


@torch.no_grad()
def _read_into(model: OrthrusLM, directory: str, whole: dict[str, Shape], ranks: Ranks) -> None:
    """Set a slice's tensors."""
    own = model.state_dict(keep_vars=True)
    cut = cuts(whole, shapes_of(model), ranks.size)
    for name, stored in _stored_tensors(directory):
        if name not in own:
            continue
        if name.endswith(".bias") and is_summed(name) and ranks.rank > 0:
            own[name].zero_()  # the sum has rank 0's
            continue
        target, index = own[name], [slice(None)] * len(whole[name])
        if name in cut:
            dim = cut[name]
            count, end = target.shape[dim], whole[name][dim]
            index[dim] = slice(min(ranks.rank * count, end), min((ranks.rank + 1) * count, end))
            if index[dim].stop - index[dim].start < count:
                target.zero_()  # rows of a table that stand for no token
                target = target[: index[dim].stop - index[dim].start]
        if target.numel():
            target.copy_(stored[tuple(index)])


def _stored_tensors(directory: str) -> Iterator[tuple[str, Any]]:
    """Yield the tensors of a checkpoint by name, of which nothing is read but what is asked for."""
    for file in weight_files(Path(directory)):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                yield name, tensors.get_slice(name)


def _dtype(asked: torch.dtype | str, directory: str, config: Any) -> torch.dtype:
    """Return the dtype that is asked for; "auto": the checkpoint's, else that of its first tensor."""
    known = config.dtype if asked == "auto" else asked
    if known is not None:
        return getattr(torch, str(known).removeprefix("torch."))
    first: Tensor = next(stored[:1] for _, stored in _stored_tensors(directory))
    return first.dtype


def _generation_config(directory: str, model: OrthrusLM) -> GenerationConfig:
    try:
        return GenerationConfig.from_pretrained(directory)
    except OSError:  # there is none
        return GenerationConfig.from_model_config(model.config)
