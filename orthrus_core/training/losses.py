"""Losses over token rows, returned as sums so that a distributed trainer can add them up."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from orthrus_core.training.packing import PackedBatch, has_next

BYTES_PER_LOGIT = 16  # four FP32 tensors of the size of a chunk's logits at the peak


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


def chunk_rows(vocab_size: int, chunk_bytes: int) -> int:
    """Rows whose logits, in all the forms that `distillation_loss` holds at once, fit into `chunk_bytes`."""
    return max(1, chunk_bytes // (BYTES_PER_LOGIT * vocab_size))


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

    Give the teacher for the forward KL(AR || diffusion), or the targets for cross-entropy. The gradient is
    made together with the loss, so nothing of the size of logits lives until the backward. At its peak the
    call holds, beside its arguments, at most

        16 * rows_per_chunk * V  bytes: logits, their log-probabilities and the teacher's, FP32, and one more
        R * D * itemsize         bytes: the gradient, in the dtype of `hidden`
        V * D * 2                bytes: `output_weight` in BF16, where autocast is on and it is not BF16

    with D small beside V; `chunk_rows` turns a number of bytes into rows. FP64 arguments stay FP64 and take
    twice as much.

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
    output_weight = _in_product_dtype(output_weight.detach())
    total = _FrozenHeadLoss.apply(hidden, output_weight, teacher, weights, rows_per_chunk, softcap)
    return LossSum(total, weights.sum())


class _FrozenHeadLoss(torch.autograd.Function):
    """Sum of weighted losses; the gradient is made in the forward, while the logits are at hand."""

    @staticmethod
    def forward(ctx, hidden, output_weight, teacher, weights, rows_per_chunk, softcap):  # type: ignore[override]
        total = hidden.new_zeros((), dtype=_loss_dtype(hidden))
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, hidden.shape[0], rows_per_chunk):
            rows = slice(start, start + rows_per_chunk)
            loss, difference = _chunk_loss(
                hidden[rows],
                output_weight,
                teacher[rows],
                weights[rows],
                softcap=softcap,
                needs_gradient=gradient is not None,
            )
            total += loss
            if gradient is not None:
                gradient[rows] = difference.to(output_weight.dtype) @ output_weight
            del difference  # or it would live on beside the next chunk's
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx, grad_total):  # type: ignore[override]
        (gradient,) = ctx.saved_tensors
        return (grad_total * gradient).to(gradient.dtype), None, None, None, None, None


def _chunk_loss(
    hidden: Tensor,
    output_weight: Tensor,
    teacher: Tensor,
    weights: Tensor,
    *,
    softcap: float | None,
    needs_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """Summed loss of some rows and its derivative by their logits, (R, V); void without `needs_gradient`.

    Works in place wherever it can: see the bound in `distillation_loss`.
    """
    logits = _logits(hidden, output_weight, softcap)
    log_probs = logits.log_softmax(-1)
    slope = logits.div_(softcap).square_().neg_().add_(1) if softcap and needs_gradient else None
    del logits
    if teacher.dtype == torch.int64:
        losses = -log_probs.gather(1, teacher[:, None])[:, 0]
        difference = log_probs.exp_()
        difference.scatter_add_(1, teacher[:, None], difference.new_full((len(teacher), 1), -1.0))
    else:
        teacher_log_probs = _logits(teacher, output_weight, softcap).log_softmax(-1)
        teacher_probs = teacher_log_probs.exp()
        losses = teacher_log_probs.sub_(log_probs).mul_(teacher_probs).sum(-1)
        del teacher_log_probs
        difference = log_probs.exp_().sub_(teacher_probs)
        del teacher_probs
    if needs_gradient:
        difference.mul_(weights[:, None])
        if slope is not None:
            difference.mul_(slope)  # the derivative of c * tanh(x / c) is 1 - tanh ** 2
    return (losses * weights).sum(), difference


def _logits(hidden: Tensor, output_weight: Tensor, softcap: float | None) -> Tensor:
    """(R, V) FP32, or FP64."""
    product = hidden.to(output_weight.dtype) @ output_weight.T
    logits = product.to(_loss_dtype(product))
    return logits if softcap is None else logits.div_(softcap).tanh_().mul_(softcap)


def _in_product_dtype(output_weight: Tensor) -> Tensor:
    """The output head in the dtype that autocast multiplies in: cast once and not for every chunk."""
    if not torch.is_autocast_enabled(output_weight.device.type) or output_weight.dtype == torch.float64:
        return output_weight
    return output_weight.to(torch.get_autocast_dtype(output_weight.device.type))


def _loss_dtype(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
