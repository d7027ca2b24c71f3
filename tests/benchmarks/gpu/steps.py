"""How long forwards take: against the bandwidth bound, and AR against consensus with replayed acceptance."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from orthrus_core.attention.rows import Span
from orthrus_core.attention.view import View
from orthrus_core.cache import PagePool, PageTables
from orthrus_core.engine.runner import ModelRunner
from orthrus_core.evaluation.curve import AcceptanceCurve
from orthrus_core.models.cost import ModelShape, forward_bytes
from orthrus_core.models.model import OrthrusLM
from orthrus_core.readiness.compilation import compile_forwards

Row = dict[str, Any]
COPY_BYTES = 2**32
PAGE_SIZE = 16
ROOM = 64  # cells that a sequence has behind its context
ROWS_PER_SEQUENCE = 8
MEMORY_SHARE = 0.85  # of what is free once the weights are there
MAX_STEP_RATIO = 1.35  # verify forward over its bandwidth bound, up to STEP_ROWS rows
STEP_ROWS = 64
MAX_PAIR_RATIO = 2.2  # draft and verify forward over one AR forward
BUDGETS = (16, 32, 64, 128, 256)
DRAFTS = (2, 4, 8, 16, 31)


def seconds_of(call: Callable[[], object], device: torch.device, *, repeats: int = 20) -> float:
    """Return the median duration of a call, device work included, after three calls to warm up."""
    times = []
    for index in range(repeats + 3):
        _synchronize(device)
        started_at = time.perf_counter()
        call()
        _synchronize(device)
        if index >= 3:
            times.append(time.perf_counter() - started_at)
    return statistics.median(times)


def copy_bytes_per_s(device: torch.device) -> float:
    """Return the bandwidth of a copy inside the device's memory, bytes read and written counted."""
    num_bytes = COPY_BYTES if device.type == "cuda" else COPY_BYTES >> 6
    source = torch.randint(256, (num_bytes,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * num_bytes / seconds_of(lambda: target.copy_(source), device)


class StepTimer:
    """One model over one pool of pages, and forwards of any shape over it."""

    def __init__(
        self, model: OrthrusLM, shape: ModelShape, *, max_sequences: int, max_context: int, compiled: bool
    ):
        """Allocate as many pages as fit and fill them with random numbers."""
        self.device = model.device
        pages_each = -(-(max_context + ROOM) // PAGE_SIZE)
        page_bytes = shape.kv_bytes_per_token * PAGE_SIZE
        wanted = max_sequences * pages_each + 1
        if self.device.type == "cuda":
            wanted = min(wanted, int(torch.cuda.mem_get_info(self.device)[0] * MEMORY_SHARE) // page_bytes)
        self._tables = PageTables(
            PagePool(wanted, PAGE_SIZE), num_slots=max_sequences, pages_per_sequence=pages_each
        )
        self._runner = ModelRunner(model, self._tables)
        if compiled:
            compile_forwards(self._runner)
        for pages in (*self._runner.cache.keys, *self._runner.cache.values):
            pages.normal_()

    def hold(self, sequences: int, context: int) -> bool:
        """Give each sequence pages for its context and some room; whether they fit."""
        for slot in range(len(self._tables.num_held)):
            self._tables.clear(slot)
        needed = sequences * -(-(context + ROOM) // PAGE_SIZE)
        if sequences > len(self._tables.num_held) or needed > self._tables.pool.num_available:
            return False
        for slot in range(sequences):
            self._tables.grow(slot, context + ROOM)
        return True

    def forward_s(self, view: View, *, sequences: int, rows_each: int, context: int, budget: int) -> float:
        """Return the seconds from laying out rows on the host to their choices being back there.

        Args:
            sequences: those with rows, held before.
            rows_each: rows of each, at the end of its context.
            budget: T.
        """
        spans = [Span(slot, context, [1] * rows_each) for slot in range(sequences)]

        def run() -> None:
            rows = self._runner.lay_out(spans, view, token_budget=budget)
            self._runner.run(rows, view).ids.cpu()

        return seconds_of(run, self.device)


def rung_for(rows: int) -> int | None:
    """Return the smallest budget that holds these rows, None if there is none."""
    return next((budget for budget in BUDGETS if rows <= budget), None)


def time_steps(timer: StepTimer, shape: ModelShape, *, context: int, bytes_per_s: float) -> Iterator[Row]:
    """Time verify forwards against the bandwidth bound, then draft and verify against an AR forward."""
    timer.hold(1, context)
    ar_s = timer.forward_s("ar", sequences=1, rows_each=1, context=context, budget=BUDGETS[0])
    for budget in sorted(BUDGETS, key=lambda budget: abs(budget - STEP_ROWS)):  # the one that counts first
        sequences = budget // ROWS_PER_SEQUENCE
        if not timer.hold(sequences, context):
            continue
        sizes = {"sequences": sequences, "rows_each": ROWS_PER_SEQUENCE, "context": context}
        verify_s = timer.forward_s("ar", **sizes, budget=budget)
        draft_s = timer.forward_s("diffusion", **sizes, budget=budget)
        moved = forward_bytes(shape, rows=budget, sequences=sequences, context=context)
        ratio, pair_ratio = verify_s * bytes_per_s / moved, (draft_s + verify_s) / ar_s
        yield {
            "T": budget,
            **sizes,
            "verify_ms": verify_s * 1e3,
            "bound_ms": moved / bytes_per_s * 1e3,
            "over_bound": ratio,
            "draft_ms": draft_s * 1e3,
            "ar_ms": ar_s * 1e3,
            "pair_over_ar": pair_ratio,
            "passed": _passed(timer.device, budget, ratio, pair_ratio),
        }


def _passed(device: torch.device, budget: int, ratio: float, pair_ratio: float) -> bool | None:
    """Return whether the targets are reached, None where there are none."""
    if device.type != "cuda" or budget > STEP_ROWS:
        return None
    return ratio <= MAX_STEP_RATIO and pair_ratio <= MAX_PAIR_RATIO


def replay_decoding(
    timer: StepTimer, curves: dict[str, AcceptanceCurve], *, batches: Sequence[int], contexts: Sequence[int]
) -> Iterator[Row]:
    """Time AR steps and draft-and-verify steps; tokens per step come from curves, not from the model."""
    for context in contexts:
        for batch in batches:
            base = {"batch": batch, "context": context}
            ar_budget = rung_for(batch)
            if ar_budget is None or not timer.hold(batch, context):
                yield base | {"result": "does not fit"}
                continue
            sizes = {"sequences": batch, "context": context}
            ar_s = timer.forward_s("ar", **sizes, rows_each=1, budget=ar_budget)
            steps = {}
            for drafts in DRAFTS:
                draft_budget, verify_budget = rung_for(batch * drafts), rung_for(batch * (drafts + 1))
                if draft_budget and verify_budget:
                    draft_s = timer.forward_s("diffusion", **sizes, rows_each=drafts, budget=draft_budget)
                    verify_s = timer.forward_s("ar", **sizes, rows_each=drafts + 1, budget=verify_budget)
                    steps[drafts] = draft_s + verify_s
            yield base | {"ar_tokens_per_s": batch / ar_s} | _best(steps, curves, batch, ar_s)


def _best(steps: dict[int, float], curves: dict[str, AcceptanceCurve], batch: int, ar_s: float) -> Row:
    """Return, for each curve, the best number of drafts and its tokens per second over AR's; 0: AR itself."""
    row: Row = {}
    for name, curve in curves.items():
        rates = {0: batch / ar_s} | {
            drafts: batch * curve.tokens_per_step(drafts) / step_s for drafts, step_s in steps.items()
        }
        best = max(rates, key=lambda drafts: rates[drafts])
        row |= {f"{name}: best K": best, f"{name}: over AR": rates[best] * ar_s / batch}
    return row


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
