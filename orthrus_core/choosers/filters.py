"""Which tokens may be sampled: temperature, top-k, top-p, min-p, each row with its own.

The slow form. It is what the kernels of `native_draw` and `triton_draw` are held against, and runs where
neither can be had.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

EXCLUDED = float("-inf")
ONE = 2.0**42  # the weight of the likeliest token: sums of 2^21 such are below 2^63
EXP_TERMS = (1 / 5040, 1 / 720, 1 / 120, 1 / 24, 1 / 6, 0.5, 1.0, 1.0)  # of the Taylor series, highest first
LN2_PARTS = (0.693359375, -2.12194440e-4)
ROUNDING = 12582912.0  # 1.5 * 2^23: adding it to a float32 rounds to a whole number
LEAST_EXPONENT = -87.0


@dataclass(frozen=True)
class Filters:
    """The filters of R rows.

    Attributes:
        temperature: (R,) float32, > 0.
        top_k: (R,) int64, 0 in rows without it.
        top_p: (R,) float64, 1 in rows without it.
        min_p: (R,) float32, 0 in rows without it.
    """

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor


def filter_logits(logits: Tensor, filters: Filters) -> Tensor:
    """Divide by the temperature and exclude what top-k, top-p and min-p exclude, in this order.

    Whatever changes logits by what was emitted before comes ahead of all of it. The same numbers as
    transformers' warpers give, but that its probabilities are rounded otherwise. A row's result does not
    depend on the other rows, nor on device, threads or vector width: probabilities are whole numbers
    (`weights_of`), whose sums have no order, and all else is comparison or correctly rounded.

    Args:
        logits: (R, V) float32, V up to 2^21.
        filters: of the same rows.
    Returns:
        (R, V) float32, -inf where excluded; at least one token per row is not. NaN logits stay.
    """
    scores = logits / filters.temperature[:, None]
    ascending, order = scores.sort(dim=-1, stable=True)
    shares = exp_of(ascending - ascending[:, -1:])
    kept = _in_top_k(ascending, filters.top_k)
    kept &= _in_top_p(weights_of(shares) * kept, filters.top_p)
    kept &= shares >= filters.min_p[:, None]
    kept[:, -1] = True
    return scores.masked_fill(~kept.scatter(1, order, kept), EXCLUDED)


def _in_top_k(ascending: Tensor, top_k: Tensor) -> Tensor:
    """Leave out what lies below the k-th largest score; all that equal it stay."""
    V = ascending.shape[-1]
    least = ascending.gather(1, (V - torch.where(top_k == 0, V, top_k)).clamp(min=0)[:, None])
    return ascending >= least


def _in_top_p(weights: Tensor, top_p: Tensor) -> Tensor:
    """Leave out the least likely tokens whose probabilities sum to at most 1 - p.

    Of equal scores at the cut the higher ids stay, as they come last.

    Args:
        weights: (R, V) int64 by ascending score, 0 where a token is excluded already.
        top_p: (R,) float64.
    """
    # 1 - p before rounding to float32, as transformers
    cut = ((1 - top_p).float().double() * weights.sum(dim=-1)).long()
    return (weights.cumsum(dim=-1) > cut[:, None]) | (top_p >= 1)[:, None]


def weights_of(shares: Tensor) -> Tensor:
    """Return probabilities relative to the likeliest token's, in [0, 1], as int64 of 2^-42."""
    return (shares * ONE).long()


def exp_of(x: Tensor) -> Tensor:
    """Return e^x of float32 x <= 0 from basic arithmetic alone, relative error about 2e-7; 0 below -87.

    x = n ln 2 + r, |r| <= ln 2 / 2. To be run eagerly: a compiler may fuse * and +.
    """
    clamped = x.clamp(min=LEAST_EXPONENT)
    n = (clamped * 1.44269504 + ROUNDING) - ROUNDING
    r = (clamped - n * LN2_PARTS[0]) - n * LN2_PARTS[1]
    e = torch.full_like(r, EXP_TERMS[0])
    for term in EXP_TERMS[1:]:
        e = e * r + term
    e = e * ((n.int() + 127) << 23).view(torch.float32)
    return torch.where(x < LEAST_EXPONENT, 0.0, e)
