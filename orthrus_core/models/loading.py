"""Loading a checkpoint with a head, whatever its config.json calls itself."""

import logging
import re
import time
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from orthrus_core.errors import CheckpointError
from orthrus_core.models.checkpoint import (
    check_directory,
    is_plain_backbone,
    load_config,
    one_line,
    refuse_tensors,
)
from orthrus_core.models.config import DualViewConfig, plain_config_class, plain_fields
from orthrus_core.models.head import add_diffusion_head
from orthrus_core.models.lora import check_updates, merge_lora, read_updates
from orthrus_core.models.model import OrthrusLM, model_class, plain_model_class
from orthrus_core.models.requirements import UnsupportedBackboneError, check_backbone
from orthrus_core.models.weights import Weights, check_weights, quantise

__all__ = ["load_config", "load_model"]

logger = logging.getLogger(__name__)

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def load_model(
    path: str | Path,
    *,
    dtype: torch.dtype | str = "auto",
    device: torch.device | str = "cpu",
    needs_head: bool = True,
    lora: str | Path | None = None,
    weights: Weights = "auto",
    quantise_output_head: bool = False,
) -> OrthrusLM:
    """Load a backbone with its diffusion head from a local directory or a hub id.

    Published checkpoints say `model_type: qwen3` with `architectures: [OrthrusLM]`; the Auto classes would
    load those as a plain Qwen3 and drop the head, this function does not. Others say `model_type: orthrus`
    and name their backbone's type (`backbone_type`), without which it is Qwen3.

    Args:
        path: directory with config.json and safetensors (one file or sharded), or a hub id.
        dtype: dtype of the weights; "auto" keeps the checkpoint's.
        device: where to put the model.
        needs_head: False: a plain backbone is fine too. It gets an untrained head that drafts nothing: it
            decodes autoregressively, or by lookup.
        lora: directory with a LoRA adapter in peft's format, added to the backbone's weights.
        weights: int8, fp8: of linear layers, one byte each with a scale for every output channel, made from
            the checkpoint's (and the adapter's). Text is that of the quantised model's own AR decoding.
        quantise_output_head: those of the output head too.
    Returns:
        The model in evaluation mode.
    Raises:
        ConfigError: int8 or fp8 for a mixture of experts.
        CheckpointError: no such checkpoint, another architecture, or tensors or an adapter that do not fit.
    """
    started_at = time.perf_counter()
    logger.info("loading model=%s", path)
    directory = local_directory(path)
    config = load_config(directory, needs_head=needs_head)
    check_weights(config, weights)
    try:
        if is_plain_backbone(directory):
            model = _load_backbone(directory, config, dtype)
        else:
            own_class = model_class(config.backbone_type)
            model = own_class.from_pretrained(directory, config=config, dtype=dtype, use_safetensors=True)
    except UnsupportedBackboneError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot load the weights: {one_line(error)}") from error
    if lora is not None:
        merge_lora(model, lora)
    quantise(model, weights, output_head=quantise_output_head)
    model = model.to(device).eval()  # type: ignore[arg-type]
    logger.info(
        "loaded dtype=%s weights=%s device=%s seconds=%.1f",
        *(model.dtype, weights, device, time.perf_counter() - started_at),
    )
    return model


def check_lora(path: str | Path, lora: str | Path) -> None:
    """Refuse an adapter that does not fit a checkpoint; loads none of the checkpoint's weights.

    Args:
        path: directory with the checkpoint's config.json.
        lora: directory with the adapter.
    Raises:
        CheckpointError: it is no plain LoRA adapter, or of another model.
    """
    config = load_config(path, needs_head=False)
    own_class = plain_model_class(config.backbone_type)
    with torch.device("meta"):
        skeleton = own_class(plain_config_class(config.backbone_type)(**plain_fields(config)))
    skeleton.tie_weights()
    check_updates(lora, skeleton, read_updates(lora))


def _load_backbone(directory: str, config: DualViewConfig, dtype: torch.dtype | str) -> OrthrusLM:
    """Load a plain backbone and add the head that `config` describes."""
    own_class = plain_model_class(config.backbone_type)
    with torch.device("meta"):
        skeleton = own_class(plain_config_class(config.backbone_type)(**plain_fields(config)))
    check_backbone(skeleton)
    if get_checkpoint_conversion_mapping(config.backbone_type) is None:  # the file has the model's tensors
        check_directory(directory, skeleton)
    loaded: Any = own_class.from_pretrained(
        directory, dtype=dtype, use_safetensors=True, output_loading_info=True
    )
    backbone, info = loaded
    refuse_tensors(directory, missing=info["missing_keys"], surplus=info["unexpected_keys"], misshaped=())
    model = add_diffusion_head(backbone, block_size=config.block_size, mask_token_id=config.mask_token_id)
    model.config.has_head = False
    return model


def local_directory(path: str | Path) -> str:
    """Return the directory that holds a checkpoint, downloading it when `path` is a hub id."""
    if Path(path).is_dir():
        return str(path)
    if Path(path).exists():
        raise CheckpointError(f"{path}: is a file; name the checkpoint directory that holds config.json")
    if not HUB_ID.fullmatch(str(path)):
        raise CheckpointError(f"{path}: no such directory, and no hub id owner/name")
    try:
        return snapshot_download(
            str(path), allow_patterns=["*.json", "*.safetensors"], ignore_patterns=["*/*"]
        )
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: no such directory, and not to be had from the hub: {one_line(error)}"
        ) from error
