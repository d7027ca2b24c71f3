"""What the logits of a forward say, row by row."""

from typing import NamedTuple

from torch import Tensor


class Readout(NamedTuple):
    """What the rows of a forward say, on the device.

    Attributes:
        logits: (T, V), in the model's dtype.
        ids: (T,) int64, the lowest of the likeliest ids.
        gaps: (T,) float32, difference of the two largest logits.
        logprobs: (T,) float32, log-probability of `ids`: not finite where a row is broken, since a logit of
            NaN or +inf anywhere in it makes its log-probability NaN or infinite.
        logsumexp: (T,) float32.
    """

    logits: Tensor
    ids: Tensor
    gaps: Tensor
    logprobs: Tensor
    logsumexp: Tensor


def read_out(logits: Tensor) -> Readout:
    """Read logits (T, V) of any float dtype out, in float32."""
    exact = logits.float()
    top, ids = exact.max(dim=-1)
    second = exact.scatter(1, ids[:, None], float("-inf")).amax(dim=-1)
    logsumexp = exact.logsumexp(dim=-1)
    return Readout(logits, ids, top - second, top - logsumexp, logsumexp)
