"""Which tokens may be sampled: temperature, top-k, top-p, min-p, each row with its own."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from orthrus_core.request import SamplingParams

EXCLUDED = float("-inf")


@dataclass(frozen=True)
class Filters:
    """The filters of R rows; None where no row asks for one.

    Attributes:
        temperature: (R,) float32, > 0.
        top_k: (R,) int64, 0 in rows without it.
        max_top_k: largest entry of top_k.
        top_p: (R,) float64, 1 in rows without it.
        min_p: (R,) float32, 0 in rows without it.
    """

    temperature: Tensor
    top_k: Tensor | None
    max_top_k: int
    top_p: Tensor | None
    min_p: Tensor | None

    @classmethod
    def of(cls, rows: Sequence[SamplingParams | None], device: torch.device) -> "Filters":
        """Collect the filters of rows; a row of None keeps its logits as they are."""
        top_k = [params.top_k if params else 0 for params in rows]
        top_p = [params.top_p if params else 1.0 for params in rows]
        min_p = [params.min_p if params else 0.0 for params in rows]
        temperature = [params.temperature if params else 1.0 for params in rows]

        def column(values: list, dtype: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device)

        return cls(
            temperature=column(temperature, torch.float32),
            top_k=column(top_k, torch.int64) if any(top_k) else None,
            max_top_k=max(top_k, default=0),
            top_p=column(top_p, torch.float64) if min(top_p, default=1.0) < 1.0 else None,
            min_p=column(min_p, torch.float32) if any(min_p) else None,
        )


def filter_logits(logits: Tensor, filters: Filters) -> Tensor:
    """Divide by the temperature and exclude what top-k, top-p and min-p exclude, in this order.

    The same numbers as transformers' warpers give, and a row's result does not depend on the other rows.

    Args:
        logits: (R, V) float32.
        filters: of the same rows.
    Returns:
        (R, V) float32, -inf where excluded; at least one token per row is not.
    """
    scores = logits / filters.temperature[:, None]
    if filters.top_k is not None:
        scores = _keep_top_k(scores, filters.top_k, filters.max_top_k)
    if filters.top_p is not None:
        scores = _keep_top_p(scores, filters.top_p)
    if filters.min_p is not None:
        scores = _keep_min_p(scores, filters.min_p)
    return scores


def _keep_top_k(scores: Tensor, top_k: Tensor, max_top_k: int) -> Tensor:
    """Exclude what lies below the k-th largest score; all that equal it stay."""
    V = scores.shape[-1]
    best = scores.topk(min(max_top_k, V), dim=-1).values
    least = best.gather(1, (top_k - 1).clamp(0, best.shape[1] - 1)[:, None])
    least = least.masked_fill(top_k[:, None] == 0, EXCLUDED)
    return scores.masked_fill(scores < least, EXCLUDED)


def _keep_top_p(scores: Tensor, top_p: Tensor) -> Tensor:
    """Exclude the least likely tokens whose probabilities sum to at most 1 - p; the likeliest one stays.

    Of equal scores at the cut the higher ids stay.
    """
    ascending, order = scores.sort(dim=-1, stable=True)
    # 1 - p before rounding to float32, as transformers; -1 excludes nothing where no top-p was asked for
    cut = torch.where(top_p < 1, 1 - top_p, -1).float()[:, None]
    excluded = ascending.softmax(dim=-1).cumsum(dim=-1) <= cut
    excluded[:, -1] = False
    return scores.masked_fill(excluded.scatter(1, order, excluded), EXCLUDED)


def _keep_min_p(scores: Tensor, min_p: Tensor) -> Tensor:
    """Exclude what is less likely than `min_p` times the likeliest token."""
    probabilities = scores.softmax(dim=-1)
    least = min_p[:, None] * probabilities.amax(dim=-1, keepdim=True)
    return scores.masked_fill(probabilities < least, EXCLUDED)
