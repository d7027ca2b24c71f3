"""A short forward of both kinds, by which an architecture shows that its attention goes through `attend`."""

import math

import torch
from torch import Tensor

from orthrus_core.models.attention import AttentionLayer
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
        repeats = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)
        scores = (q @ k.transpose(-1, -2)).float() * layer.scaling
        if layer.softcap is not None:
            scores = torch.tanh(scores / layer.softcap) * layer.softcap
        place = torch.arange(q.shape[2], device=q.device)
        distance = place[:, None] - place
        unseen = distance < 0
        if layer.sliding_window is not None:
            unseen |= distance >= layer.sliding_window
        weights = scores.masked_fill(unseen, -math.inf).softmax(-1)
        return (weights.to(v.dtype) @ v).transpose(1, 2)


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
