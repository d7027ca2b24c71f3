"""Losses over token rows, returned as sums so that a distributed trainer can add them up."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

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


def distillation_loss(
    hidden: Tensor,
    output_weight: Tensor,
    *,
    weights: Tensor,
    teacher_hidden: Tensor | None = None,
    target_ids: Tensor | None = None,
    rows_per_chunk: int = 2048,
    softcap: float | None = None,
) -> LossSum:
    """Loss of the diffusion view under a frozen output head, logits held for one chunk of rows at a time.

    Give the teacher for the forward KL(AR || diffusion), or the targets for cross-entropy.

    Args:
        hidden: (R, D) last hidden states of the diffusion view; the only argument that gets a gradient.
        output_weight: (V, D), the frozen output head.
        weights: (R,) FP32.
        teacher_hidden: (R, D) last hidden states of the AR view at the teaching rows.
        target_ids: (R,) int64.
        softcap: c in c * tanh(logit / c), where the backbone takes that of its logits.
    """
    if (teacher_hidden is None) == (target_ids is None):
        raise ValueError("distillation_loss takes either teacher_hidden or target_ids")
    teacher = target_ids if teacher_hidden is None else teacher_hidden
    total = _FrozenHeadLoss.apply(hidden, output_weight, teacher, weights, rows_per_chunk, softcap)
    return LossSum(total, weights.sum())


class _FrozenHeadLoss(torch.autograd.Function):
    """Sum of weighted losses; the gradient is made in the forward, while the logits are at hand."""

    @staticmethod
    def forward(ctx, hidden, output_weight, teacher, weights, rows_per_chunk, softcap):  # type: ignore[override]
        total = hidden.new_zeros((), dtype=torch.float32)
        gradient = torch.zeros_like(hidden)
        for start in range(0, hidden.shape[0], rows_per_chunk):
            rows = slice(start, start + rows_per_chunk)
            logits = _logits(hidden[rows], output_weight, softcap)
            log_probs = logits.log_softmax(-1)
            losses, teacher_probs = _row_losses(log_probs, output_weight, teacher[rows], softcap)
            total += (losses * weights[rows]).sum()
            if ctx.needs_input_grad[0]:
                difference = (log_probs.exp() - teacher_probs) * weights[rows, None]
                if softcap is not None:
                    difference *= 1 - (logits / softcap) ** 2  # the derivative of c * tanh(x / c)
                gradient[rows] = difference @ output_weight.to(difference.dtype)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx, grad_total):  # type: ignore[override]
        (gradient,) = ctx.saved_tensors
        return grad_total * gradient, None, None, None, None, None


def _logits(hidden: Tensor, output_weight: Tensor, softcap: float | None) -> Tensor:
    """(R, V) FP32."""
    logits = (hidden @ output_weight.T).float()
    return logits if softcap is None else torch.tanh(logits / softcap) * softcap


def _row_losses(
    log_probs: Tensor, output_weight: Tensor, teacher: Tensor, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """Losses (R,) and the distribution (R, V) that pulls them to zero."""
    if teacher.dtype == torch.int64:
        return -log_probs.gather(1, teacher[:, None])[:, 0], one_hot(teacher, log_probs.shape[1])
    teacher_log_probs = _logits(teacher, output_weight, softcap).log_softmax(-1)
    teacher_probs = teacher_log_probs.exp()
    return (teacher_probs * (teacher_log_probs - log_probs)).sum(-1), teacher_probs
