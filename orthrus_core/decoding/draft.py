"""The draft pass: the diffusion view proposes a block per sequence."""

import itertools
from typing import Protocol

import torch
from torch import Tensor

from orthrus_core.decoding.choice import choose, sampling_of
from orthrus_core.decoding.masked_draft import MaskedDraft, bound_blocks
from orthrus_core.decoding.rejection import Distributions, DraftOdds
from orthrus_core.decoding.rows import Span
from orthrus_core.decoding.runner import ModelRunner
from orthrus_core.decoding.scheduler import Work


class Draft(Protocol):
    """What `draft` below is."""

    def __call__(
        self, runner: ModelRunner, works: list[Work], mask_token_id: int, *, token_budget: int
    ) -> Tensor:
        """Return proposals, (S, K) int64."""
        ...


def draft_spans(works: list[Work], mask_token_id: int) -> list[Span]:
    """Return a block [anchor, MASK, ...] per work that drafts; row i proposes the token of offset i+1."""
    return [
        Span(
            work.sequence.slot,
            work.sequence.anchor_position,
            [work.sequence.token_ids[-1]] + [mask_token_id] * (work.num_drafts - 1),
        )
        for work in works
        if work.num_drafts
    ]


def draft(runner: ModelRunner, works: list[Work], mask_token_id: int, *, token_budget: int) -> Tensor:
    """Run the diffusion view over all blocks.

    Args:
        runner: runs the model.
        works: the step's works, at most T drafts.
        mask_token_id: stands for the tokens to propose.
        token_budget: T.
    Returns:
        (S, K) int64 `draft_ids`, a line per work and K its largest `num_drafts`; entries past a work's own
        `num_drafts` mean nothing.
    """
    return _propose(runner, works, mask_token_id, token_budget)[0]


def draft_with_odds(
    runner: ModelRunner, works: list[Work], mask_token_id: int, *, token_budget: int
) -> tuple[Tensor, DraftOdds | None]:
    """Run `draft` and keep what the rejection rule needs; None where no drafting work samples."""
    draft_ids, scores = _propose(runner, works, mask_token_id, token_budget, with_odds=True)
    if scores is None:
        return draft_ids, None
    lines = [line for line, work in enumerate(works) if work.num_drafts and work.sequence.params.temperature]
    counts = [works[line].num_drafts for line in lines]
    firsts = list(itertools.accumulate(counts[:-1], initial=0))
    return draft_ids, DraftOdds(lines, Distributions.of(scores, firsts, draft_ids.shape[1]))


@torch.inference_mode()
def _propose(
    runner: ModelRunner, works: list[Work], mask_token_id: int, token_budget: int, *, with_odds: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Return `draft_ids` and the scores (R, V) of the sampling rows, work after work, if any.

    Args:
        with_odds: whether the scores are to be what the drafts were drawn from, under a grammar too.
    """
    spans = draft_spans(works, mask_token_id)
    rows = runner.lay_out(spans, "diffusion", token_budget=token_budget)
    first_of_work = list(itertools.accumulate([work.num_drafts for work in works[:-1]], initial=0))
    sampling = sampling_of(
        [(work.sequence, row, work.num_drafts) for work, row in zip(works, first_of_work, strict=True)],
        token_budget=token_budget,
        device=runner.device,
    )
    readout = runner.run(rows, "diffusion")
    proposals, _, scores = choose(readout, rows.positions, sampling)
    if blocks := bound_blocks(works, first_of_work):
        masked = MaskedDraft(readout, rows.positions, proposals, scores, sampling)
        proposals = masked.choose(blocks, with_odds=with_odds)
    return _by_work(proposals, first_of_work, works), scores


def _by_work(proposals: Tensor, first_of_work: list[int], works: list[Work]) -> Tensor:
    """Arrange proposals (T,) as (S, K): a line per work, from its first row on."""
    offsets = torch.arange(max(work.num_drafts for work in works))
    rows = (torch.tensor(first_of_work)[:, None] + offsets).clamp_(max=len(proposals) - 1)
    return proposals[rows.to(proposals.device)]
