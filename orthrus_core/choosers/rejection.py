"""The published accept rule: a draft x ~ q stands with probability min(1, p(x) / q(x)).

At the first draft that falls a token is drawn from the normalised positive part of p - q instead; after all
drafts the AR view's own draw follows. p and q are the tempered, filtered distributions of the AR and of the
diffusion view; a draft that was looked up is certain in q. The emitted tokens are distributed as those of AR
decoding; which ones they are depends on where blocks began.
"""

import itertools
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from orthrus_core.choosers.coupled import Coupled
from orthrus_core.choosers.noise import Stream, gumbel_noise, uniform_noise
from orthrus_core.engine.layout import ChoosingRows, StepLayout
from orthrus_core.engine.sequence import Sequence
from orthrus_core.engine.step import NO_TOKEN, Choices
from orthrus_core.models.readout import Readout
from orthrus_core.transfer import to_device


class Rejection:
    """A `Chooser` by this rule for requests that sample; others keep the longest agreeing prefix."""

    def __init__(self, inner: Coupled):
        """Args: inner draws drafts and choices, and keeps the scores it drew from."""
        self._inner = inner
        self._blocks: list[ChoosingRows] = []  # of the draft forward, that sample
        self._q: Distributions | None = None

    def propose(self, step: StepLayout, readout: Readout, positions: Tensor) -> Tensor:
        """See `Chooser`."""
        draft_ids = self._inner.propose(step, readout, positions)
        self._blocks = [rows for rows in step.drafting() if rows.sequence.params.temperature]
        if self._blocks:
            assert self._inner.scores is not None
            firsts = list(itertools.accumulate((rows.count for rows in self._blocks[:-1]), initial=0))
            self._q = Distributions.of(self._inner.scores, firsts, self._width)
        return draft_ids

    def propose_ahead(self, step: StepLayout, readout: Readout, positions: Tensor) -> Tensor:
        """See `Chooser`; nothing is kept of what these drafts were drawn from, so no step asks for them."""
        raise NotImplementedError("the rejection rule needs two forwards per step")

    def choose(
        self, step: StepLayout, readout: Readout, positions: Tensor, draft_ids: Tensor | None
    ) -> Choices:
        """See `Chooser`."""
        own = self._inner.choose(step, readout, positions, draft_ids)
        ids = own.ids
        if self._q is not None and draft_ids is not None:
            drafts = _drafts_of(self._blocks, draft_ids)
            ids = self._judged(step, ids, self._blocks, drafts, self._q)
        if looked_up := _looked_up(step):
            known = [step.drafts_of(rows.line, None) for rows in looked_up]
            padded = pad_sequence([torch.tensor(one) for one in known], batch_first=True)
            drafts = to_device(padded.numpy(), ids.device)
            ids = self._judged(step, ids, looked_up, drafts, Certain(drafts, readout.logits.shape[1]))
        return own if ids is own.ids else Choices(ids, readout.logprobs_of(ids))

    @property
    def _width(self) -> int:
        """K, drafts of the longest block."""
        return max(rows.count for rows in self._blocks)

    def _judged(
        self,
        step: StepLayout,
        choice_ids: Tensor,
        blocks: SequenceOf[ChoosingRows],
        drafts: Tensor,
        q: "Proposals",
    ) -> Tensor:
        """Return `choice_ids` (R,) as the rule has them behind the anchors of L blocks.

        What stands there are the drafts that were accepted and then another token than the next draft.

        Args:
            drafts: (L, K) int64; whatever behind a block's last one.
            q: what they were drawn from.
        """
        assert self._inner.scores is not None
        device, K = choice_ids.device, drafts.shape[1]
        p = Distributions.of(self._inner.scores, _first_scores(step, blocks), K + 1)
        counts, slots = np.array([rows.count for rows in blocks]), np.arange(K + 1)
        rows = step.choices[[rows.line for rows in blocks]][:, None] + slots
        line, slot = np.nonzero(slots <= counts[:, None])
        # rows past a block's last draft are another sequence's: read here for their shape, never written
        own = choice_ids[to_device(rows.clip(max=len(choice_ids) - 1), device)]
        targets, lines, places = to_device(np.stack([rows[line, slot], line, slot]), device)
        num_drafts = to_device(counts, device)
        keys = NoiseKeys.of([rows.sequence for rows in blocks], device)
        num_accepted, replacements = judge(drafts, num_drafts, p, q, keys)
        ids = emitted_ids(own, drafts, num_drafts, num_accepted, replacements)
        return choice_ids.index_copy(0, targets, ids[lines, places])


def _drafts_of(blocks: SequenceOf[ChoosingRows], draft_ids: Tensor) -> Tensor:
    """Return the drafts (L, K) of blocks from those of all (D,)."""
    width = max(rows.count for rows in blocks)
    places = np.array([rows.first for rows in blocks])[:, None] + np.arange(width)
    return draft_ids[to_device(places.clip(max=len(draft_ids) - 1), draft_ids.device)]


def _looked_up(step: StepLayout) -> list[ChoosingRows]:
    """Return the sampling works whose drafts were looked up, with the rows of their anchors."""
    return [
        ChoosingRows(rows.line, rows.sequence, rows.first, rows.count - 1)
        for rows in step.verifying()
        if rows.count > 1 and rows.sequence.params.temperature and step.works[rows.line].draft_ids is not None
    ]


def _first_scores(step: StepLayout, blocks: SequenceOf[ChoosingRows]) -> list[int]:
    """Return the place of each block's anchor among the sampling rows of the verify forward."""
    places, count = {}, 0
    for rows in step.verifying():
        if rows.sequence.params.temperature:
            places[rows.line] = count
            count += rows.count
    return [places[rows.line] for rows in blocks]


class Proposals(Protocol):
    """What the drafts of L blocks were drawn from."""

    def of_tokens(self, ids: Tensor) -> Tensor:
        """Return the probability (L, K) of each of ids (L, K) in its slot."""
        ...

    def in_slots(self, slots: Tensor) -> Tensor:
        """Return the distribution (L, V) in one slot (L,) of each block."""
        ...


@dataclass(frozen=True)
class Certain:
    """Proposals that nothing was drawn for: each draft has all of the probability.

    Attributes:
        drafts: (L, K) int64.
        vocab_size: V.
    """

    drafts: Tensor
    vocab_size: int

    def of_tokens(self, ids: Tensor) -> Tensor:
        """See `Proposals`; ids are the drafts."""
        return torch.ones(ids.shape, device=ids.device)

    def in_slots(self, slots: Tensor) -> Tensor:
        """See `Proposals`."""
        certain = self.drafts.gather(1, slots[:, None])
        return torch.zeros(len(slots), self.vocab_size, device=slots.device).scatter_(1, certain, 1.0)


@dataclass(frozen=True)
class Distributions:
    """One view's probabilities of the next token, for the N slots of each of L blocks.

    Attributes:
        rows: (R, V) float32, a row per sampling token row.
        places: (L, N) int64, the row behind each slot; a block's slots stand behind one another.
    """

    rows: Tensor
    places: Tensor

    @classmethod
    def of(cls, scores: Tensor, first_places: SequenceOf[int], width: int) -> Self:
        """Take the softmax of scores (R, V).

        Args:
            scores: -inf where a token is excluded.
            first_places: row of each block's first slot.
            width: N, slots of the longest block; a shorter one's last slots mean nothing.
        """
        places = np.array(first_places)[:, None] + np.arange(width)
        return cls(scores.softmax(dim=-1), to_device(places.clip(max=len(scores) - 1), scores.device))

    def of_tokens(self, ids: Tensor) -> Tensor:
        """Return the probability (L, K) of each of ids (L, K), K <= N, in its slot."""
        return self.rows[self.places[:, : ids.shape[1]], ids]

    def in_slots(self, slots: Tensor) -> Tensor:
        """Return the distribution (L, V) in one slot (L,) of each block."""
        return self.rows[self.places.gather(1, slots[:, None])[:, 0]]


@dataclass(frozen=True)
class NoiseKeys:
    """What decides the noise of L blocks: seeds, samples and anchor positions, (L,) int64 each."""

    seeds: Tensor
    samples: Tensor
    positions: Tensor

    @classmethod
    def of(cls, sequences: SequenceOf[Sequence], device: torch.device) -> Self:
        """Collect the keys of the sequences whose blocks these are."""
        keys = [(one.params.seed, one.sample, one.anchor_position) for one in sequences]
        return cls(*to_device(np.array(keys, dtype=np.int64), device).unbind(dim=1))


def stands(p: Tensor, q: Tensor, uniforms: Tensor) -> Tensor:
    """Return which drafts stand: true with probability min(1, p / q), all of one shape."""
    return uniforms * q < p


def resample(p: Tensor, q: Tensor, noise: Tensor) -> Tensor:
    """Draw from the normalised positive part of p - q.

    Args:
        p, q: (L, V) float32 probabilities.
        noise: (L, V) standard Gumbel.
    Returns:
        (L,) int64. Where nothing of p - q is positive (q = p but for rounding, or q is NaN), drawn from p.
    """
    residual = (p - q).clamp(min=0)
    residual = torch.where(residual.sum(dim=-1, keepdim=True) > 0, residual, p)
    return (residual.log() + noise).argmax(dim=-1)


def judge(
    draft_ids: Tensor, num_drafts: Tensor, p: Distributions, q: Proposals, keys: NoiseKeys
) -> tuple[Tensor, Tensor]:
    """Apply the rule to L blocks.

    Args:
        draft_ids: (L, K) int64, drawn from q; entries from `num_drafts` on are ignored.
        num_drafts: (L,) int64, each in [1, K].
        p: of the AR view, slot i for the token after the anchor and i drafts.
        q: that the drafts were drawn from, slot i behind draft i.
        keys: of the blocks.
    Returns:
        `num_accepted` (L,) int64, and the token (L,) int64 in place of the first draft that fell; it means
        nothing where all stood.
    """
    positions = keys.positions[:, None] + 1 + torch.arange(draft_ids.shape[1], device=draft_ids.device)
    seeds, samples = keys.seeds[:, None].expand_as(positions), keys.samples[:, None].expand_as(positions)
    uniforms = uniform_noise(seeds, samples, positions, Stream.ACCEPTANCE)
    standing = stands(p.of_tokens(draft_ids), q.of_tokens(draft_ids), uniforms)
    num_accepted = count_standing(standing, num_drafts)
    slots = num_accepted.clamp(max=draft_ids.shape[1] - 1)
    p_rows = p.in_slots(slots)
    noise = gumbel_noise(
        keys.seeds, keys.samples, keys.positions + 1 + slots, p_rows.shape[-1], Stream.RESIDUAL
    )
    return num_accepted, resample(p_rows, q.in_slots(slots), noise)


def emitted_ids(
    choice_ids: Tensor, draft_ids: Tensor, num_drafts: Tensor, num_accepted: Tensor, replacements: Tensor
) -> Tensor:
    """Return what follows the anchor: accepted drafts, then the token in place of the next one, or the bonus.

    Args:
        choice_ids: (L, K+1) int64, the AR view's own draws.
        draft_ids: (L, K) int64.
        num_drafts, num_accepted, replacements: (L,) int64; a replacement counts where a draft fell.
    Returns:
        (L, K+1) int64, NO_TOKEN past `num_accepted`.
    """
    own = choice_ids.gather(1, num_accepted[:, None])
    last = torch.where((num_accepted < num_drafts)[:, None], replacements[:, None], own)
    slots = torch.arange(choice_ids.shape[1], device=choice_ids.device)
    last = torch.where(slots == num_accepted[:, None], last, NO_TOKEN)
    return torch.where(slots < num_accepted[:, None], torch.cat([draft_ids, last[:, -1:]], dim=1), last)


def count_standing(stands: Tensor, num_drafts: Tensor) -> Tensor:
    """Count the drafts before the first one that does not stand, on the device.

    Args:
        stands: (S, K) bool; entries from `num_drafts` on are ignored.
        num_drafts: (S,) int64, each in [0, K].
    Returns:
        (S,) int64, each in [0, num_drafts].
    """
    proposed = torch.arange(stands.shape[1], device=stands.device) < num_drafts[:, None]
    return (stands & proposed).long().cumprod(dim=1).sum(dim=1)
