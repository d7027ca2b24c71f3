"""Do two runs write the same? Consensus decoding and plain AR decoding, or a system and itself."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch

from orthrus_core.engine.sequence import Completion
from orthrus_core.engine.stats import CompletionStats
from orthrus_core.evaluation.speed import Outputs
from orthrus_core.models.model import OrthrusLM

Z = 1.959964  # of the normal distribution, 95 % of it within


@dataclass(frozen=True)
class Difference:
    """The first place where a row's two completions part.

    Attributes:
        row: number of the prompt, from 0.
        position: token of the completion, from 0; None when only numbers or ends differ.
        token_id: token there, None when this completion has ended; likewise `reference_id`.
    """

    row: int
    position: int | None
    token_id: int | None
    reference_id: int | None


@dataclass(frozen=True)
class Comparison:
    """Rows of two runs side by side.

    Attributes:
        rows: compared rows.
        errors: rows that one of the runs could not complete; not compared.
        identical_tokens: rows with the same tokens and the same finish reason.
        identical_logprobs: those of them with the same bits in the sum of log-probabilities and the smallest
            logit gap.
        differences: the rows that differ in tokens or numbers.
    """

    rows: int
    errors: int
    identical_tokens: int
    identical_logprobs: int
    differences: tuple[Difference, ...]


def compare_completions(ours: Sequence[Completion], reference: Sequence[Completion]) -> Comparison:
    """Compare row by row; the same prompts in the same order on both sides."""
    pairs = [
        (row, one, other)
        for row, (one, other) in enumerate(zip(ours, reference, strict=True))
        if one.error is None and other.error is None
    ]
    same_tokens = [_same_tokens(one, other) for _, one, other in pairs]
    same_numbers = [
        tokens and _same_numbers(one, other)
        for tokens, (_, one, other) in zip(same_tokens, pairs, strict=True)
    ]
    unlike = [pair for pair, same in zip(pairs, same_numbers, strict=True) if not same]
    return Comparison(
        rows=len(pairs),
        errors=len(ours) - len(pairs),
        identical_tokens=sum(same_tokens),
        identical_logprobs=sum(same_numbers),
        differences=tuple(_difference(*pair) for pair in unlike),
    )


def compare_outputs(ours: Outputs, reference: Outputs) -> Comparison:
    """Compare systems that give tokens and no numbers; those count as the same."""

    def completions(outputs: Outputs) -> list[Completion]:
        return [Completion(0, ids, "stop", None, CompletionStats()) for ids in outputs]

    return compare_completions(completions(ours), completions(reference))


@torch.no_grad()
def logit_gap(model: OrthrusLM, token_ids: Sequence[int]) -> float:
    """Distance of the two best AR logits after these tokens, by one forward of transformers' own.

    Small where rounding decides which token comes next: near-ties in BF16 are below 0.2 or so.
    """
    logits = model(torch.tensor([list(token_ids)], device=model.device), logits_to_keep=1).logits[0, -1]
    best, second = logits.float().topk(2).values.tolist()
    return best - second


def wilson_interval(count: int, total: int) -> tuple[float, float]:
    """Bounds of a share at 95 % confidence, after Wilson: they hold at 0 and at `total` of few rows too.

    Args:
        total: at least 1.
    """
    share, widen = count / total, Z**2 / total
    middle = (share + widen / 2) / (1 + widen)
    half = math.sqrt(share * (1 - share) * widen + widen**2 / 4) / (1 + widen)
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))  # rounding apart


def _same_tokens(one: Completion, other: Completion) -> bool:
    return one.token_ids == other.token_ids and one.finish_reason == other.finish_reason


def _same_numbers(one: Completion, other: Completion) -> bool:
    """Whether the sums agree to the last bit.

    They add float32 values in float64, exactly, so that the grouping into steps plays no part.
    """
    return (one.stats.logprob, one.stats.min_logit_gap) == (other.stats.logprob, other.stats.min_logit_gap)


def _difference(row: int, one: Completion, other: Completion) -> Difference:
    for position, (token_id, reference_id) in enumerate(zip_longest(one.token_ids, other.token_ids)):
        if token_id != reference_id:
            return Difference(row, position, token_id, reference_id)
    return Difference(row, None, None, None)
