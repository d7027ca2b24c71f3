"""The frozen backbone and its tokenizer: found, checked against each other and the data, and loaded."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from orthrus_core.errors import ConfigError
from orthrus_core.models.checkpoint import is_plain_backbone, load_config
from orthrus_core.models.head import remove_diffusion_head
from orthrus_core.models.loading import load_model
from orthrus_core.models.mask_token import MaskToken, choose_mask_token
from pipelines.checkpoint.directory import Checkpoint, fetch, locate
from pipelines.checkpoint.directory import load_tokenizer as load_model_tokenizer
from pipelines.config.model import ModelConfig
from pipelines.train.config import HeadTrainConfig


@dataclass(frozen=True)
class Backbone:
    """A backbone that was found, its weights not loaded.

    Attributes:
        checkpoint: where and what it is.
        vocab_size: rows of its embeddings.
        mask_token: of the head to train.
    """

    checkpoint: Checkpoint
    vocab_size: int
    mask_token: MaskToken


def find_backbone(config: HeadTrainConfig) -> Backbone:
    """Find the backbone and see that tokenizer, head and packing fit it.

    Raises:
        ConfigError: there is none, or one of them does not fit.
    """
    with _errors_name_the_option():
        checkpoint = locate(ModelConfig(path=config.backbone, revision=config.revision))
        model = load_config(checkpoint.path, needs_head=False)
        tokenizer = load_model_tokenizer(checkpoint.path)
    name = config.backbone
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            f"backbone: the tokenizer in {name} must have an end-of-sequence token, it has none"
        )
    if len(tokenizer) > model.vocab_size:
        raise ConfigError(
            f"backbone: the tokenizer in {name} must have at most the {model.vocab_size} tokens that the "
            f"model has embeddings for, got {len(tokenizer)}: take the tokenizer that belongs to the model"
        )
    if config.packing.sequence_len > model.max_position_embeddings:
        raise ConfigError(
            f"packing.sequence_len must be <= {model.max_position_embeddings}, the backbone's window, "
            f"got {config.packing.sequence_len}"
        )
    return Backbone(checkpoint, model.vocab_size, _mask_token(config, tokenizer, model.vocab_size))


def _mask_token(config: HeadTrainConfig, tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> MaskToken:
    mask = config.head.mask_token_id
    if mask is None:
        return choose_mask_token(tokenizer, vocab_size)
    if mask >= vocab_size:
        raise ConfigError(f"head.mask_token_id must be < {vocab_size}, the backbone's vocabulary, got {mask}")
    if mask == tokenizer.eos_token_id:
        raise ConfigError(f"head.mask_token_id must be another token than the end of sequence, got {mask}")
    return MaskToken(mask, "head.mask_token_id")


def check_tokenizer_of_data(backbone: Backbone, manifests: Sequence[Mapping[str, Any]]) -> None:
    """Refuse rows that a generate job made with another tokenizer.

    Args:
        manifests: of the generate jobs.
    Raises:
        ConfigError: neither the tokenizer's files nor its vocabulary are the same.
    """
    for manifest in manifests:
        made_by = manifest.get("identity", {}).get("tokenizer.hash")
        if made_by in (None, backbone.checkpoint.tokenizer_hash):
            continue
        model = str(manifest.get("model", {}).get("path"))
        if not _has_same_vocabulary(model, backbone.checkpoint.path):
            raise ConfigError(
                f"data.path: its rows must be made with the backbone's tokenizer, got that of {model}: "
                "generate them with this backbone, or set data.check_tokenizer=false if the ids are the same"
            )


def _has_same_vocabulary(model: str, path: str) -> bool:
    if not Path(model).is_dir():
        return False
    try:
        return load_model_tokenizer(model).get_vocab() == load_model_tokenizer(path).get_vocab()
    except ConfigError:
        return False


def load_backbone(checkpoint: Checkpoint) -> PreTrainedModel:
    """Load a plain causal LM in FP32; a hub or remote one is fetched to this machine.

    Of a model with a diffusion head the head is left out: another one is trained in its place.

    Raises:
        ConfigError: no loadable weights.
    """
    path = fetch(checkpoint)
    try:
        if not is_plain_backbone(path):
            return remove_diffusion_head(load_model(path, dtype=torch.float32))
        return AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"backbone: cannot load {path}: {' '.join(str(error).split()):.300}") from error


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer directory.

    Raises:
        ConfigError: there is none, or it lacks an end-of-sequence token.
    """
    # transformers would take any other text for the name of a model on the hub, and ask the network.
    if not path.is_dir():
        raise ConfigError(f"tokenizer: {path} is no directory: download it, or make it first")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"tokenizer: none in {path}: {' '.join(str(error).split()):.300}") from error
    if tokenizer.eos_token_id is None:
        raise ConfigError(f"tokenizer: that in {path} must have an end-of-sequence token, it has none")
    return tokenizer


@contextmanager
def _errors_name_the_option() -> Iterator[None]:
    """What the pipelines call model.path is called backbone here."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"backbone: {str(error).removeprefix('model.path: ')}") from None
