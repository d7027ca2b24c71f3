"""Which token comes next: the likeliest one, or one drawn with noise that both views share."""

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import torch
from torch import Tensor

from orthrus_core.decoding.filters import Filters, filter_logits
from orthrus_core.decoding.noise import gumbel_noise
from orthrus_core.decoding.sampling import SamplingParams
from orthrus_core.decoding.sequence import Sequence


@dataclass(frozen=True)
class RowSampling:
    """What the sampling token rows of one forward need, R of its T rows.

    Attributes:
        rows: (R,) int64, the token rows that sample.
        seeds: (R,) int64.
        samples: (R,) int64.
        filters: of all T rows, neutral in the others: one shape for every forward, as for the model.
    """

    rows: Tensor
    seeds: Tensor
    samples: Tensor
    filters: Filters


def sampling_of(
    choosers: SequenceOf[tuple[Sequence, int, int]], *, token_budget: int, device: torch.device
) -> RowSampling | None:
    """Collect what a forward's sampling rows need (host work only).

    Args:
        choosers: per sequence, the first of its token rows that choose a token and how many do.
        token_budget: T.
        device: where the tensors go.
    Returns:
        None when every row is greedy.
    """
    by_row: dict[int, Sequence] = {}
    for sequence, first, count in choosers:
        if sequence.params.temperature:
            by_row.update(dict.fromkeys(range(first, first + count), sequence))
    if not by_row:
        return None
    params: list[SamplingParams | None] = [None] * token_budget
    for row, sequence in by_row.items():
        params[row] = sequence.params
    columns = [(row, sequence.params.seed, sequence.sample) for row, sequence in by_row.items()]
    rows, seeds, samples = torch.tensor(columns).to(device).unbind(dim=1)
    return RowSampling(rows, seeds, samples, Filters.of(params, device))


def sample(logits: Tensor, positions: Tensor, sampling: RowSampling, greedy_ids: Tensor) -> Tensor:
    """Return `greedy_ids` with the drawn token in the rows that sample.

    Args:
        logits: (T, V).
        positions: (T,) int64, positions of the rows; each chooses the token of the next one.
        sampling: which rows sample, and how.
        greedy_ids: (T,) int64.
    Returns:
        (T,) int64.
    """
    scores = filter_logits(logits.float(), sampling.filters)[sampling.rows]
    noise = gumbel_noise(
        sampling.seeds, sampling.samples, positions[sampling.rows] + 1, vocab_size=logits.shape[-1]
    )
    return greedy_ids.index_copy(0, sampling.rows, (scores + noise).argmax(dim=-1))


def choose(logits: Tensor, positions: Tensor, sampling: RowSampling | None) -> tuple[Tensor, Tensor, Tensor]:
    """Choose from AR logits: the lowest of the likeliest ids, or a drawn one in rows that sample.

    Args:
        logits: (T, V).
        positions: (T,) int64, positions of the rows.
        sampling: None: every row is greedy.
    Returns:
        choice ids (T,) int64, top1-top2 logit gaps (T,) float32, log-probabilities of the choices (T,)
        float32 before temperature and filters.
    """
    logits = logits.float()
    top, choice_ids = logits.max(dim=-1)
    second = logits.scatter(1, choice_ids[:, None], float("-inf")).amax(dim=-1)
    chosen = top
    if sampling is not None:
        choice_ids = sample(logits, positions, sampling, choice_ids)
        chosen = logits.gather(1, choice_ids[:, None])[:, 0]
    return choice_ids, top - second, chosen - logits.logsumexp(dim=-1)
