"""What a forward says, row by row."""

from typing import NamedTuple

from torch import Tensor


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


class Hidden(NamedTuple):
    """The hidden states of all rows of a forward, on the device.

    Attributes:
        states: (T, D), after the last norm.
        sums: (T,) float32, of each row: not finite where it is broken.
    """

    states: Tensor
    sums: Tensor


def read_out(logits: Tensor) -> Readout:
    """Read logits (R, V) of any float dtype out, in float32."""
    exact = logits.float()
    top, ids = exact.max(dim=-1)
    second = exact.scatter(1, ids[:, None], float("-inf")).amax(dim=-1)
    logsumexp = exact.logsumexp(dim=-1)
    return Readout(logits, ids, top - second, top - logsumexp, logsumexp)
