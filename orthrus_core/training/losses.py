"""Losses over token rows, returned as sums so that a distributed trainer can add them up."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import cross_entropy

from orthrus_core.training.packing import PackedBatch, has_next


@dataclass(frozen=True)
class LossSum:
    """A weighted sum of losses and the sum of its weights: the loss is `total / weight`."""

    total: Tensor
    weight: Tensor


def next_token_weights(batch: PackedBatch, *, prompt_weight: float) -> Tensor:
    """Weight of the prediction made at each token.

    Returns:
        (B, N) FP32: 1 where the next token is a completion token of the same document,
        `prompt_weight` where it is a prompt token, 0 at the end of a document and in the padding.
    """
    next_is_completion = batch.is_completion.roll(-1, dims=1)
    weights = next_is_completion.float() + prompt_weight * (~next_is_completion).float()
    return weights * has_next(batch)


def next_token_loss(logits: Tensor, target_ids: Tensor, weights: Tensor) -> LossSum:
    """Weighted cross-entropy.

    Args:
        logits: (R, V). target_ids: (R,) int64. weights: (R,) FP32.
    """
    losses = cross_entropy(logits.float(), target_ids, reduction="none")
    return LossSum((losses * weights).sum(), weights.sum())
