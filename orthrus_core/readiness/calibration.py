"""What forwards cost on this machine: measured at start-up, for the policy that fills the token rows."""

import time
from collections.abc import Sequence

import numpy as np
import torch

from orthrus_core.attention.rows import Span
from orthrus_core.attention.view import View
from orthrus_core.cache import PageTables
from orthrus_core.engine.runner import ModelRunner

MEASURED_CONTEXT = 256  # cells before each sequence's rows, or half of what it can hold
REPEATS = 4
ENOUGH_S = 0.15  # of one rung and view: later repeats are left out
MEASURED_GROWTH = 1.4  # rungs closer than this to the one measured before are interpolated


def measure_forwards(runner: ModelRunner, budgets: Sequence[int], view: View) -> tuple[float, ...]:
    """Return the seconds of a full forward of each rung, its layout included.

    The rows are shared by as many sequences as there are slots, or by fewer where there are fewer rows. Some
    rungs are measured, the first and the last among them; in between seconds are interpolated. Whatever else
    the machine does can only add to a measurement: of repeats the least counts, and a rung never costs more
    than a larger one.

    Args:
        runner: idle; its page tables are empty, and empty again afterwards.
        budgets: rungs, T each.
    """
    tables = runner.tables
    context = min(MEASURED_CONTEXT, tables.pages.shape[1] * tables.pool.page_size // 2)
    try:
        measured = spread_out(budgets)
        seconds = [_measure(runner, _spans(tables, T, context), T, view) for T in measured]
        least = np.minimum.accumulate(seconds[::-1])[::-1]
        return tuple(np.interp(budgets, measured, least).tolist())
    finally:
        for slot in range(len(tables.num_held)):
            tables.clear(slot)


def spread_out(budgets: Sequence[int]) -> list[int]:
    """Return the rungs to measure: the first, the last, and between them steps of MEASURED_GROWTH or more."""
    chosen = [budgets[0]]
    for T in budgets[1:-1]:
        if MEASURED_GROWTH * chosen[-1] <= T:
            chosen.append(T)
    return [*chosen, *budgets[-1:]] if len(budgets) > 1 else chosen


def _spans(tables: PageTables, T: int, context: int) -> list[Span]:
    """T rows over all slots, or over as many as the pool has pages for."""
    num_slots, page_size = len(tables.num_held), tables.pool.page_size
    room = tables.pages.shape[1] * page_size
    spans = []
    for slot in range(min(num_slots, T)):
        count = min(T // min(num_slots, T), room - context)
        if tables.grow(slot, context + count) < context + count:
            break
        spans.append(Span(slot, context, [0] * count))
    return spans or [Span(0, 0, [0])]


def _measure(runner: ModelRunner, spans: Sequence[Span], T: int, view: View) -> float:
    taken: list[float] = []
    _run(runner, spans, T, view)
    while len(taken) < REPEATS and (not taken or sum(taken) < ENOUGH_S):
        started_at = time.perf_counter()
        _run(runner, spans, T, view)
        taken.append(time.perf_counter() - started_at)
    return min(taken)


def _run(runner: ModelRunner, spans: Sequence[Span], T: int, view: View) -> None:
    runner.run(runner.lay_out(spans, view, token_budget=T), view)
    if runner.device.type == "cuda":
        torch.cuda.synchronize(runner.device)
