"""The draft pass: the diffusion view proposes a block per sequence."""

import torch
from torch import Tensor

from orthrus_core.decoding.rows import Span, first_rows
from orthrus_core.decoding.runner import ModelRunner
from orthrus_core.decoding.scheduler import Work


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
    proposals = runner.run(runner.lay_out(spans, "diffusion"), "diffusion").argmax(dim=-1)
    starts = iter(first_rows(spans))
    first = torch.tensor([next(starts) if work.num_drafts else 0 for work in works])
    offsets = torch.arange(max(work.num_drafts for work in works))
    rows = (first[:, None] + offsets).clamp_(max=runner.token_budget - 1)
    return proposals[rows.to(proposals.device)]
