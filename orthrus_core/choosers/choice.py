"""Which token comes next: the likeliest one, or one drawn with noise that both views share."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from orthrus_core.choosers.filters import Filters, filter_logits
from orthrus_core.choosers.masks import RowMasks
from orthrus_core.choosers.noise import gumbel_noise
from orthrus_core.engine.layout import ChoosingRows
from orthrus_core.engine.sequence import Sequence
from orthrus_core.models.readout import Readout
from orthrus_core.request import SamplingParams


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
    choosing: Iterable[ChoosingRows], *, token_budget: int, device: torch.device
) -> RowSampling | None:
    """Collect what a forward's sampling rows need (host work only).

    Args:
        choosing: the token rows that choose, by sequence.
        token_budget: T.
        device: where the tensors go.
    Returns:
        None when every row is greedy.
    """
    by_row: dict[int, Sequence] = {}
    for one in choosing:
        if one.sequence.params.temperature:
            by_row.update(dict.fromkeys(range(one.first, one.first + one.count), one.sequence))
    if not by_row:
        return None
    params: list[SamplingParams | None] = [None] * token_budget
    for row, sequence in by_row.items():
        params[row] = sequence.params
    columns = [(row, sequence.params.seed, sequence.sample) for row, sequence in by_row.items()]
    rows, seeds, samples = torch.tensor(columns).to(device).unbind(dim=1)
    return RowSampling(rows, seeds, samples, Filters.of(params, device))


def sampling_scores(logits: Tensor, sampling: RowSampling) -> Tensor:
    """Return (R, V) float32: tempered and filtered logits of the rows that sample, of logits (T, V)."""
    return filter_logits(logits.float(), sampling.filters)[sampling.rows]


def sample(scores: Tensor, positions: Tensor, sampling: RowSampling, greedy_ids: Tensor) -> Tensor:
    """Return `greedy_ids` with the drawn token in the rows that sample.

    Args:
        scores: (R, V) float32 of `sampling_scores`.
        positions: (T,) int64, positions of the rows; each chooses the token of the next one.
        sampling: which rows sample, and how.
        greedy_ids: (T,) int64.
    Returns:
        (T,) int64.
    """
    noise = gumbel_noise(
        sampling.seeds, sampling.samples, positions[sampling.rows] + 1, vocab_size=scores.shape[-1]
    )
    return greedy_ids.index_copy(0, sampling.rows, (scores + noise).argmax(dim=-1))


def logprobs_of(readout: Readout, ids: Tensor) -> Tensor:
    """Return the log-probabilities (T,) of ids (T,): bits of `readout.logprobs` where ids are its own.

    A negative id, which is no token, is taken for 0.
    """
    chosen = readout.logits.gather(1, ids.clamp(min=0)[:, None])[:, 0]
    return chosen.float() - readout.logsumexp


def choose(
    readout: Readout, positions: Tensor, sampling: RowSampling | None, masks: RowMasks | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Choose from what the AR view says: the likeliest id, or a drawn one in rows that sample.

    Args:
        positions: (T,) int64, positions of the rows.
        sampling: None: every row is greedy.
        masks: of the rows that a grammar binds; None: it binds none.
    Returns:
        choice ids (T,) int64, their log-probabilities (T,) float32 before masks, temperature and
        filters, and the scores (R, V) that were drawn from, if any.
    """
    if masks is not None:
        return _choose_masked(readout, positions, sampling, masks)
    if sampling is None:
        return readout.ids, readout.logprobs, None
    scores = sampling_scores(readout.logits, sampling)
    choice_ids = sample(scores, positions, sampling, readout.ids)
    return choice_ids, logprobs_of(readout, choice_ids), scores


def _choose_masked(
    readout: Readout, positions: Tensor, sampling: RowSampling | None, masks: RowMasks
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Do `choose` without the tokens that masks exclude: they go before temperature and filters."""
    masked = masks.apply(readout.logits)
    choice_ids = readout.ids.index_copy(0, masks.rows, masked.max(dim=-1).indices)
    scores = None
    if sampling is not None:
        scores = sampling_scores(readout.logits.float().index_copy(0, masks.rows, masked), sampling)
        choice_ids = sample(scores, positions, sampling, choice_ids)
    return choice_ids, logprobs_of(readout, choice_ids), scores
