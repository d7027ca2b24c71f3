"""The published accept rule: a draft x ~ q stands with probability min(1, p(x) / q(x)).

At the first draft that falls a token is drawn from the normalised positive part of p - q instead; after all
drafts the AR view's own draw follows. p and q are the tempered, filtered distributions of the AR and of the
diffusion view. The emitted tokens are distributed as those of AR decoding; which ones they are depends on
where blocks began.
"""

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from orthrus_core.decoding.accept import NO_TOKEN, count_standing
from orthrus_core.decoding.noise import Stream, gumbel_noise, uniform_noise
from orthrus_core.decoding.sequence import Sequence


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
        places = torch.tensor(first_places)[:, None] + torch.arange(width)
        return cls(scores.softmax(dim=-1), places.clamp_(max=len(scores) - 1).to(scores.device))

    def of_tokens(self, ids: Tensor) -> Tensor:
        """Return the probability (L, K) of each of ids (L, K), K <= N, in its slot."""
        return self.rows[self.places[:, : ids.shape[1]], ids]

    def in_slots(self, slots: Tensor) -> Tensor:
        """Return the distribution (L, V) in one slot (L,) of each block."""
        return self.rows[self.places.gather(1, slots[:, None])[:, 0]]


@dataclass(frozen=True)
class DraftOdds:
    """What a draft pass hands to the rejection rule.

    Attributes:
        lines: the L of the step's works that sample and draft.
        distributions: q of their blocks.
    """

    lines: list[int]
    distributions: Distributions


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
        return cls(*torch.tensor(keys).to(device).unbind(dim=1))


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
    draft_ids: Tensor, num_drafts: Tensor, p: Distributions, q: Distributions, keys: NoiseKeys
) -> tuple[Tensor, Tensor]:
    """Apply the rule to L blocks.

    Args:
        draft_ids: (L, K) int64, drawn from q; entries from `num_drafts` on are ignored.
        num_drafts: (L,) int64, each in [1, K].
        p: of the AR view, slot i for the token after the anchor and i drafts.
        q: of the diffusion view, slot i behind draft i.
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
