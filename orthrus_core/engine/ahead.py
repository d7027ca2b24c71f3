"""One forward per step: blocks for the next step run beside the rows that are verified in this one.

A block is anchored at a verified row, where acceptance may end. Its first row proposes the token that the AR
view chooses there, which is known once the forward is done; what its other rows propose are drafts of the
next step, if acceptance ends at its anchor.
"""

from collections.abc import Sequence as SequenceOf

import numpy as np
import torch

from orthrus_core.attention.rows import Spans
from orthrus_core.engine.flight import Flight
from orthrus_core.engine.layout import StepLayout, Work
from orthrus_core.engine.runner import ModelRunner
from orthrus_core.engine.step import Chooser
from orthrus_core.engine.verdict import Verdict
from orthrus_core.models.readout import Hidden, Readout

Drafts = dict[int, list[int]]  # of the next step, by the line of their work


@torch.inference_mode()
def launch_both(runner: ModelRunner, step: StepLayout, chooser: Chooser) -> Flight:
    """Queue both views in one forward, over a step with at least one block: to verify, and to draft."""
    spans, T = step.verify_spans, step.verify_budget
    ar = runner.lay_out(spans, "ar", token_budget=T, choosing=step.choosing)
    own, copies = _block_spans(runner, step)
    blocks = runner.lay_out(own, "diffusion", token_budget=step.block_budget)
    hidden = runner.forward_both(ar, blocks, copies)
    readout, R = runner.read_both(ar, hidden), len(ar.chosen(ar.positions))
    first, rest = (Readout(*(part[rows] for part in readout)) for rows in (slice(R), slice(R, None)))
    choices = chooser.choose(step, first, ar.chosen(ar.positions), None)
    proposed = chooser.propose_ahead(_drafting(step), rest, blocks.positions)
    own_hidden = Hidden(*(part[:T] for part in hidden))
    return Flight.of(step, ar, own_hidden, first, choices, proposed)


def _block_spans(runner: ModelRunner, step: StepLayout) -> tuple[Spans, np.ndarray]:
    """Return [token of the anchor, MASK, ...] per block, in branches, and the pages that these copy."""
    assert step.blocks is not None
    lines, points, counts = step.blocks
    spans, rows = step.verify_spans, step.anchor_rows[lines] + points
    starts = (spans.starts + spans.counts - step.num_drafts - 1)[lines] + points
    branches, copies = runner.tables.branch(spans.slots[lines], starts)
    ids = np.full(counts.sum(), runner.mask_token_id)
    ids[np.cumsum(counts) - counts] = spans.token_ids[rows]
    return Spans(branches, starts, counts, ids), copies


def _drafting(step: StepLayout) -> StepLayout:
    """Return the blocks as a step that drafts, for its chooser."""
    assert step.blocks is not None
    lines, _, counts = (numbers.tolist() for numbers in step.blocks)
    works = [
        Work(step.works[line].sequence, 0, has_anchor=True, num_drafts=count)
        for line, count in zip(lines, counts, strict=True)
    ]
    return StepLayout.of(works)


def standing_drafts(step: StepLayout, verdicts: SequenceOf[Verdict], proposed_ids: SequenceOf[int]) -> Drafts:
    """Return what the blocks at the ends of acceptance propose, but for their first rows.

    Args:
        step: with blocks or without.
        proposed_ids: by the rows of all blocks.
    """
    drafts: Drafts = {}
    if step.blocks is None:
        return drafts
    end = 0
    for line, point, count in zip(*(numbers.tolist() for numbers in step.blocks), strict=True):
        end += count
        if verdicts[line].token_ids and verdicts[line].num_accepted == point:
            drafts[line] = list(proposed_ids[end - count + 1 : end])
    return drafts
