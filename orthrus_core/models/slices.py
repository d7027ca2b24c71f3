"""A rank's slice of a model: some of the attention heads, of every MLP's width and of the vocabulary.

The architecture's own modules run on it, since a slice is a model with fewer heads and a narrower MLP. What
is left to do is in a few places: layers that read a slice's numbers give a part of a sum, the embeddings of
tokens that another rank has are zeros, and the output head gives the logits of some tokens.
"""

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.initialization import no_init_weights

from orthrus_core.errors import ConfigError
from orthrus_core.models.config import DIFFUSION_SUFFIX, DualViewConfig, head_dim
from orthrus_core.models.cost import has_experts
from orthrus_core.models.model import OrthrusLM, model_class
from orthrus_core.ranks import Ranks

CUT = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "embed_tokens", "lm_head")  # by their outputs
SUMMED = ("o_proj", "down_proj")  # by their inputs

Shape = tuple[int, ...]


class SlicedEmbedding(nn.Module):
    """The rows of an embedding that a rank has, as the whole one."""

    def __init__(self, rows: nn.Embedding, ranks: Ranks):
        """Args: rows are those of the rank's tokens."""
        super().__init__()
        self.rows, self._ranks = rows, ranks

    def forward(self, token_ids: Tensor) -> Tensor:
        """Return (..., D) of token ids (...) of the whole vocabulary."""
        count = self.rows.num_embeddings
        own_ids = token_ids - self._ranks.rank * count
        is_own = (own_ids >= 0) & (own_ids < count)
        return self._ranks.sum(self.rows(own_ids.clamp(0, count - 1)).where(is_own[..., None], 0))


def check_slices(config: DualViewConfig, size: int) -> None:
    """Refuse a model that so many ranks cannot share.

    Raises:
        ConfigError: `size` does not divide its heads or its MLP, or it has parts that nobody can cut.
    """
    if has_experts(config):
        raise ConfigError(
            f"tensor_parallel={size}: the model is a mixture of experts, which is not cut: set it to 1"
        )
    numbers = {
        "attention heads": config.num_attention_heads,
        "K/V heads": config.num_key_value_heads,
        "intermediate size": config.intermediate_size,
    }
    if not all(isinstance(number, int) for number in numbers.values()):
        raise ConfigError(f"tensor_parallel={size}: the model's layers differ in width: set it to 1")
    if any(number % size for number in numbers.values()):
        most = math.gcd(*numbers.values())
        fitting = ", ".join(str(n) for n in range(1, most + 1) if most % n == 0)
        said = ", ".join(f"{name} {number}" for name, number in numbers.items())
        raise ConfigError(f"tensor_parallel must divide the model's {said}: choose of {fitting}, got {size}")
    with torch.device("meta"):
        cuts(shapes_of(new_whole(config)), shapes_of(new_slice(config, size)), size)


def new_whole(config: DualViewConfig) -> OrthrusLM:
    """Return a model, its numbers not set, on torch's device of the moment."""
    return model_class(config.backbone_type)(copy.deepcopy(config))


def new_slice(config: DualViewConfig, size: int, dtype: torch.dtype | None = None) -> OrthrusLM:
    """Return a model of a slice's sizes, its numbers not set, on torch's device of the moment.

    Its config is the slice's, but for the vocabulary, which is the whole one. Tables have as many rows on
    every rank; the last ones of the last ranks may stand for no token.
    """
    own: Any = copy.deepcopy(config)
    own.head_dim = head_dim(config)
    own.num_attention_heads //= size
    own.num_key_value_heads //= size
    own.intermediate_size //= size
    own.vocab_size = -(-config.vocab_size // size)
    own.pad_token_id, own.mask_token_id = None, 0  # in the table, whatever rank has theirs
    with no_init_weights():
        model = model_class(config.backbone_type)._from_config(own, dtype=dtype)
    model.tie_weights()
    whole: Any = config
    for name in ("vocab_size", "pad_token_id", "mask_token_id"):
        setattr(model.config, name, getattr(whole, name))
    return model


def shapes_of(model: nn.Module) -> dict[str, Shape]:
    """Return the shapes of a model's tensors, tied ones under each of their names."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def cuts(whole: Mapping[str, Shape], own: Mapping[str, Shape], size: int) -> dict[str, int]:
    """Return the dimension in which each tensor is cut; those that every rank holds whole are left out.

    Raises:
        ConfigError: a tensor would be cut of which nobody knows what that means.
    """
    found = {}
    for name, shape in whole.items():
        if own[name] != shape:
            found[name] = next(dim for dim, (a, b) in enumerate(zip(shape, own[name], strict=True)) if a != b)
    unknown = [name for name in found if _layer_of(name) not in (*CUT, *SUMMED)]
    if unknown:
        raise ConfigError(
            f"tensor_parallel={size}: nobody knows how to cut {unknown[0]} of this architecture: set it to 1"
        )
    return found


def is_summed(name: str) -> bool:
    """Whether a tensor belongs to a layer whose outputs are summed over ranks."""
    return _layer_of(name) in SUMMED


def connect(model: OrthrusLM, ranks: Ranks) -> None:
    """Let a slice, its numbers set, give what the whole model gives; logits on rank 0 alone."""
    V = model.config.vocab_size
    for name, module in model.named_modules():
        if is_summed(f"{name}.weight"):
            module.register_forward_hook(lambda _, __, part: ranks.sum(part))
    model.lm_head.register_forward_hook(lambda _, __, part: ranks.gather(part)[..., :V])
    model.model.embed_tokens = SlicedEmbedding(model.model.embed_tokens, ranks)
    model.ranks = ranks


def _layer_of(name: str) -> str:
    """Return what a tensor's layer is called in the AR view."""
    return name.split(".")[-2].removesuffix(DIFFUSION_SUFFIX)
