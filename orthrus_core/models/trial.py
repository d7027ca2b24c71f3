"""A short forward of both kinds, by which an architecture shows that its attention goes through `attend`."""

import itertools

import torch
from torch import Tensor

from orthrus_core.attention.plain import attend_row, first_seen
from orthrus_core.attention.view import AttentionLayer
from orthrus_core.models.requirements import UnsupportedBackboneError

# Architectures whose every promise the tests check; others must agree with transformers in a trial forward.
TESTED_BACKBONES = ("qwen2", "qwen3", "qwen3_moe", "llama", "mistral", "gemma2", "gemma3_text")
TRIAL_TOKENS = 24
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
LOW_PRECISION_TOLERANCE = 0.1


class DenseAttend:
    """Causal attention of whole sequences, without a cache: what `attend` means, in plain words.

    Attributes:
        layers: what was asked for, by layer.
    """

    def __init__(self) -> None:
        self.layers: dict[int, AttentionLayer] = {}

    def __call__(self, layer: AttentionLayer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `Attend`."""
        self.layers[layer.layer_idx] = layer
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, N, heads, Dh)
        out = torch.empty_like(q)
        for line, row in itertools.product(range(q.shape[0]), range(q.shape[1])):
            seen = slice(first_seen(row, layer.sliding_window), row + 1)
            out[line, row] = attend_row(q[line, row], k[line, seen], v[line, seen], layer)
        return out


@torch.no_grad()
def check_agreement(model) -> None:
    """Refuse a model of an untested architecture whose AR view is not transformers' forward.

    Raises:
        UnsupportedBackboneError: the logits differ, or an attention layer never asked `attend`.
    """
    if model.config.backbone_type in TESTED_BACKBONES or model.device.type == "meta":
        return
    V = model.config.vocab_size
    ids = torch.arange(TRIAL_TOKENS, device=model.device)[None] * (V // TRIAL_TOKENS or 1) % V
    positions = torch.arange(TRIAL_TOKENS, device=model.device)[None]
    attend = DenseAttend()
    try:
        ours = model.logits(model.hidden_states(ids, positions, view="ar", attend=attend)).float()
    except (TypeError, AttributeError, RuntimeError) as error:
        raise UnsupportedBackboneError(
            f"{_name(model)}: its attention cannot go through `attend`: {error}"
        ) from error
    silent = sorted(set(range(len(model.model.layers))) - attend.layers.keys())
    if silent:
        raise UnsupportedBackboneError(
            f"{_name(model)}: attention of layers {silent} does not go through `attend`"
        )
    theirs = model(ids, use_cache=False).logits.float()
    distance = float((ours - theirs).norm() / theirs.norm())
    if not distance <= TOLERANCE.get(model.dtype, LOW_PRECISION_TOLERANCE):
        raise UnsupportedBackboneError(
            f"{_name(model)}: the AR view's logits are off transformers' by {distance:.2g} of their size: "
            "its attention or its output head does something that a view does not carry"
        )


def _name(model) -> str:
    return f"a {model.config.backbone_type} backbone cannot carry a diffusion head"
