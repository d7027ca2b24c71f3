"""Losses and gradients that are no longer numbers: the run stops before it takes them over."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from orthrus_core.errors import OrthrusError
from orthrus_core.training.packing import PackedBatch


class TrainingDiverged(OrthrusError):  # noqa: N818 (a fact about the run, as the job reports it)
    """A step's loss or gradient is NaN or infinite; the weights are those of the step before.

    Attributes:
        step: the step that failed, counted from 1.
        batch: this process's rows of that step whose loss is no number; all its rows where only the gradient
            is none, or where another process has the bad rows.
        is_here: whether this process has the bad rows. They can be on several.
    """

    def __init__(self, message: str, *, step: int, batch: PackedBatch, is_here: bool) -> None:
        """See the attributes."""
        super().__init__(message)
        self.step = step
        self.batch = batch
        self.is_here = is_here


def check_finite(
    loss: float, grad_norm: float, *, step: int, batches: Sequence[PackedBatch], losses: Sequence[Tensor]
) -> None:
    """Refuse a step whose numbers are no numbers.

    Args:
        loss: mean of the step over all processes; so is grad_norm.
        step: counted from 1.
        batches: this process's micro-batches.
        losses: their sums of losses, () each; only read where the step is bad.
    Raises:
        TrainingDiverged: on every process, as all have the same `loss` and `grad_norm`.
    """
    if math.isfinite(loss) and math.isfinite(grad_norm):
        return
    bad = [batch for batch, total in zip(batches, losses, strict=True) if not total.isfinite()]
    raise TrainingDiverged(
        f"training diverged at step {step}: loss {loss}, gradient norm {grad_norm}. Nothing was updated, the "
        "last checkpoint is good: look at the batch, lower the learning rate, or use loop.precision=float32",
        step=step,
        batch=_joined(bad or batches),
        is_here=bool(bad) or math.isfinite(loss),
    )


def _joined(batches: Sequence[PackedBatch]) -> PackedBatch:
    """All packed rows as one batch."""
    return PackedBatch(*map(torch.cat, zip(*batches, strict=True)))
