"""Whether rows of the AR view keep their bits in a forward beside rows of the diffusion view."""

import logging
import random
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from orthrus_core.attention.rows import Span
from orthrus_core.engine.runner import ModelRunner
from orthrus_core.errors import reason_of

logger = logging.getLogger(__name__)

CHECKED_TOKENS = 70  # of which the last WINDOW are compared
WINDOW = 4
BLOCK_ROWS = 5
MOST_RUNGS = 4


def any_split(runner: ModelRunner) -> bool:
    """Whether forwards of both views may have any number of rows of each; on CUDA each is a graph."""
    return runner.device.type != "cuda"


def both_views_agree(runner: ModelRunner, budgets: Sequence[int]) -> bool:
    """Run rows of one sequence alone and beside blocks, in forwards of some budgets; whether bits agree.

    Where they do not, or such a forward cannot be had, a line says why: steps then have two forwards.

    Args:
        runner: idle; its page tables are empty, and empty again afterwards.
        budgets: that agree in forwards of one view.
    """
    tables = runner.tables
    if not tables.num_branches:
        return False
    room = tables.pages.shape[1] * tables.pool.page_size
    source, V = random.Random(0), runner.model.config.vocab_size
    tokens = [source.randrange(V) for _ in range(min(CHECKED_TOKENS, room))]
    tables.grow(0, len(tokens))
    try:
        for first in range(0, len(tokens), budgets[-1]):
            reference = _alone(runner, Span(0, first, tokens[first : first + budgets[-1]]), budgets[-1])
        window = Span(0, max(0, len(tokens) - WINDOW), tokens[-WINDOW:])
        reference = _alone(runner, window, budgets[-1])
        differing = [
            f"{num_ar} + {num_blocks}"
            for num_ar, num_blocks in _splits(runner, budgets)
            if not torch.equal(_beside_blocks(runner, window, num_ar, num_blocks), reference)
        ]
    except (TypeError, RuntimeError, AttributeError) as error:
        logger.info("one_forward=off: its attention does not take rows of both views: %s", reason_of(error))
        return False
    finally:
        tables.clear(0)
    if differing:
        logger.info("one_forward=off: beside blocks rows have other bits, in forwards of %s", differing)
    return not differing


def _splits(runner: ModelRunner, budgets: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Rows of both views in forwards of some rungs."""
    rungs = [T for T in budgets if T >= WINDOW + BLOCK_ROWS]
    for T in rungs[:: max(1, len(rungs) // MOST_RUNGS)]:
        blocks = [rung for rung in budgets if rung <= T // 2][-1:]
        blocks += [BLOCK_ROWS, T - WINDOW] if any_split(runner) else [T - T // 4]
        yield from ((T - count, count) for count in blocks)


def _alone(runner: ModelRunner, span: Span, T: int) -> Tensor:
    rows = runner.lay_out([span], "ar", token_budget=T)
    return runner.run(rows, "ar").logits[: len(span.token_ids)].clone()


def _beside_blocks(runner: ModelRunner, span: Span, num_ar: int, num_blocks: int) -> Tensor:
    """Return the logits of a span's rows beside blocks anchored at each of them, as many as there is room."""
    tables, most = runner.tables, min(BLOCK_ROWS, num_blocks, runner.tables.cells_per_branch)
    count = min(num_blocks // most, tables.num_branches, len(span.token_ids))
    anchors = span.start + np.arange(count)
    lines, copies = tables.branch(np.zeros(count, dtype=np.int64), anchors)
    room = tables.pages.shape[1] * tables.pool.page_size
    spans = [
        Span(line, anchor, [span.token_ids[0]] * min(most, room - anchor))
        for line, anchor in zip(lines.tolist(), anchors.tolist(), strict=True)
    ]
    ar = runner.lay_out([span], "ar", token_budget=num_ar)
    blocks = runner.lay_out(spans, "diffusion", token_budget=num_blocks)
    readout = runner.read_both(ar, runner.forward_both(ar, blocks, copies))
    return readout.logits[: len(span.token_ids)].clone()
