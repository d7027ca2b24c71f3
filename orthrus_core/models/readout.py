"""What a forward says, row by row."""

from typing import NamedTuple

import torch
from torch import Tensor

from orthrus_core.models.native_readout import DTYPES, read_rows, readout_kernel


class Readout(NamedTuple):
    """What those R rows of a forward say that choose a token, on the device.

    Attributes:
        logits: (R, V), in the model's dtype.
        ids: (R,) int64, the lowest of the likeliest ids.
        gaps: (R,) float32, difference of the two largest logits.
        logprobs: (R,) float32, log-probability of `ids`: not finite where a row is broken, since a logit of
            NaN or +inf anywhere in it makes its log-probability NaN or infinite.
        logsumexp: (R,) float32.
    """

    logits: Tensor
    ids: Tensor
    gaps: Tensor
    logprobs: Tensor
    logsumexp: Tensor

    def logprobs_of(self, ids: Tensor) -> Tensor:
        """Return the log-probabilities (T,) of ids (T,): bits of `logprobs` where ids are its own.

        A negative id, which is no token, is taken for 0.
        """
        chosen = self.logits.gather(1, ids.clamp(min=0)[:, None])[:, 0]
        return chosen.float() - self.logsumexp

    def likeliest(self, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Return the k likeliest ids (R, k) int64 of rows (R,), of equal ones the lowest first, and their
        log-probabilities (R, k) float32.

        Ids are part of what is sorted by, so that no library decides between equal logits.
        """
        logits = self.logits[rows].float()
        V = logits.shape[1]
        bits = logits.view(torch.int32)
        ranks = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()  # ascend as the floats do
        keys = (ranks << 32) + torch.arange(V - 1, -1, -1, device=bits.device)
        ids = V - 1 - (keys.topk(min(k, V), dim=-1).values & 0xFFFFFFFF)
        return ids, logits.gather(1, ids) - self.logsumexp[rows, None]


class Hidden(NamedTuple):
    """The hidden states of all rows of a forward, on the device.

    Attributes:
        states: (T, D), after the last norm.
        sums: (T,) float32, of each row: not finite where it is broken.
    """

    states: Tensor
    sums: Tensor


def read_out(logits: Tensor) -> Readout:
    """Read logits (R, V) of any float dtype out, in float32; a row's bits depend on that row alone."""
    if logits.device.type == "cpu" and logits.dtype in DTYPES and (kernel := readout_kernel()):
        if torch.compiler.is_compiling():
            return Readout(logits, *torch.ops.orthrus.read_rows(logits, kernel))
        return Readout(logits, *read_rows(logits, kernel))
    return plain_read_out(logits)


def plain_read_out(logits: Tensor) -> Readout:
    """`read_out` in torch's own operations."""
    exact = logits.float()
    top, ids = exact.max(dim=-1)
    second = exact.scatter(1, ids[:, None], float("-inf")).amax(dim=-1)
    # twice a lone row: torch would share a long one among its threads, which add it up in another order
    rows = exact if len(exact) > 1 else exact.repeat(2, 1)
    logsumexp = rows.logsumexp(dim=-1)[: len(exact)]
    return Readout(logits, ids, top - second, top - logsumexp, logsumexp)
