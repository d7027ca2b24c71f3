"""The draft pass: the diffusion view proposes a block per sequence."""

from collections.abc import Callable

import torch
from torch import Tensor

from orthrus_core.decoding.choice import sample, sampling_of
from orthrus_core.decoding.rows import Span, first_rows
from orthrus_core.decoding.runner import ModelRunner
from orthrus_core.decoding.scheduler import Work

Draft = Callable[[ModelRunner, list[Work], int], Tensor]
"""What `draft` below is: runner, works and mask token id to (S, K) proposals."""


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


@torch.inference_mode()
def draft(runner: ModelRunner, works: list[Work], mask_token_id: int) -> Tensor:
    """Run the diffusion view over all blocks.

    Returns:
        (S, K) int64 `draft_ids`, a line per work and K its largest `num_drafts`; entries past a work's own
        `num_drafts` mean nothing.
    """
    spans = draft_spans(works, mask_token_id)
    rows = runner.lay_out(spans, "diffusion")
    starts = iter(first_rows(spans))
    first_of_work = [next(starts) if work.num_drafts else 0 for work in works]
    sampling = sampling_of(
        [(work.sequence, row, work.num_drafts) for work, row in zip(works, first_of_work, strict=True)],
        token_budget=runner.token_budget,
        device=runner.device,
    )
    logits = runner.run(rows, "diffusion")
    proposals = logits.argmax(dim=-1)
    if sampling is not None:
        proposals = sample(logits, rows.positions, sampling, proposals)
    return _by_work(proposals, first_of_work, works)


def _by_work(proposals: Tensor, first_of_work: list[int], works: list[Work]) -> Tensor:
    """Arrange proposals (T,) as (S, K): a line per work, from its first row on."""
    offsets = torch.arange(max(work.num_drafts for work in works))
    rows = (torch.tensor(first_of_work)[:, None] + offsets).clamp_(max=len(proposals) - 1)
    return proposals[rows.to(proposals.device)]
