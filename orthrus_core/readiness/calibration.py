"""What forwards cost on this machine: measured at start-up, for the policy that fills the token rows."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from orthrus_core.attention.rows import Span
from orthrus_core.attention.view import View
from orthrus_core.cache import PageTables
from orthrus_core.costs import CellCosts
from orthrus_core.engine.runner import ModelRunner
from orthrus_core.models.readout import Hidden
from orthrus_core.readiness.ladder import spread_out

SHORT_CONTEXT = 256  # cells before each sequence's rows, or half of what it can hold
LONGER = 4  # times the context before, until a forward takes
CELLS_SHOW = 1.5  # times as long as with the short one, or no longer context fits
BLOCK_ROWS = 8  # of a sequence, against one, where cells of rows and of sequences are told apart
LEAST_SHARE = 0.1  # of a forward that is not owed to cells, however much they seem to take
REPEATS = 4
ENOUGH_S = 0.1  # of one rung and view: later repeats are left out,
LEAST_REPEATS = {"cpu": 1}  # but for so many; elsewhere 2, since the first one captures a graph
CELL_REPEATS = 3  # at least, where differences of forwards count
TURNS = 3  # of forwards of both views and of one, whose difference counts
MOST_SEQUENCES = {"cpu": 4}  # whose cells are measured; elsewhere as many as the largest rung has blocks for


@dataclass(frozen=True)
class ForwardCosts:
    """What the forwards of one view cost.

    Attributes:
        rung_s: seconds of the layers at each rung, but for the cells that its rows read.
        cells: what reading those adds.
    """

    rung_s: tuple[float, ...]
    cells: CellCosts


def measure_forwards(runner: ModelRunner, budgets: Sequence[int], view: View) -> ForwardCosts:
    """Measure the layers of full forwards, their layout included, over short and long contexts.

    The rows are shared by as many sequences as there are slots, or by fewer where there are fewer rows. Some
    rungs are measured, the first and the last among them; in between seconds are interpolated. Whatever else
    the machine does can only add to a measurement: of repeats the least counts, and a rung never costs more
    than a larger one.

    Args:
        runner: idle; its page tables are empty, and empty again afterwards.
        budgets: rungs, T each.
    """
    try:
        cells = _measure_cells(runner, budgets, view)
    finally:
        _clear(runner.tables)
    measured = spread_out(budgets)
    seconds = measure_rungs(runner, measured, view, cells=cells)
    least = np.minimum.accumulate(seconds[::-1])[::-1]
    return ForwardCosts(tuple(np.interp(budgets, measured, least).tolist()), cells)


def measure_head(runner: ModelRunner, budgets: Sequence[int]) -> tuple[float, ...]:
    """Return the seconds of reading out so many rows; some are measured, see `measure_forwards`."""
    measured = spread_out(budgets)
    seconds = [_measure_head(runner, R) for R in measured]
    least = np.minimum.accumulate(seconds[::-1])[::-1]
    return tuple(np.interp(budgets, measured, least).tolist())


def _measure_head(runner: ModelRunner, R: int) -> float:
    rows = runner.lay_out([Span(0, 0, [0])], "ar", token_budget=R)
    model = runner.model
    states = torch.zeros(R, model.config.hidden_size, dtype=model.dtype, device=runner.device)
    hidden = Hidden(states, states.new_zeros(R))
    return _least(lambda: runner.read(rows, hidden, "ar"), runner.device)


def measure_rungs(
    runner: ModelRunner, budgets: Sequence[int], view: View, *, cells: CellCosts | None = None
) -> list[float]:
    """Return the seconds of the layers of each rung, full, over short contexts, less those of its cells."""
    try:
        return [_measure_rung(runner, T, cells or CellCosts(), view) for T in budgets]
    finally:
        _clear(runner.tables)


def measure_alike(
    runner: ModelRunner, known: ForwardCosts, budgets: Sequence[int], view: View
) -> ForwardCosts:
    """Measure one rung of a view whose forwards do the work of another one's; the others are in proportion.

    Args:
        known: costs of the other view's forwards at these budgets.
    """
    place = len(budgets) // 2
    try:
        ratio = _measure_rung(runner, budgets[place], known.cells, view) / known.rung_s[place]
    finally:
        _clear(runner.tables)
    return ForwardCosts(tuple(ratio * seconds for seconds in known.rung_s), known.cells)


def measure_both(runner: ModelRunner, budgets: Sequence[int]) -> float:
    """Return the seconds that a forward of both views takes beside one of the AR view with as many rows.

    One rung is measured, half of whose rows are of a block, over no cells that count.
    """
    tables, T = runner.tables, budgets[len(budgets) // 2]
    num_rows = min(BLOCK_ROWS, T // 2, _room(tables), tables.cells_per_branch)
    nothing = np.zeros(1, dtype=np.int64)
    try:
        spans = _spans(tables, 1, num_rows, 0)
        lines, copies = tables.branch(nothing, nothing)
        block = [Span(int(lines[0]), 0, spans[0].token_ids)]

        def run() -> None:
            ar = runner.lay_out(spans, "ar", token_budget=T - num_rows)
            runner.forward_both(ar, runner.lay_out(block, "diffusion", token_budget=num_rows), copies)

        differences = [_least(run, runner.device) - _measure(runner, spans, T, "ar") for _ in range(TURNS)]
        return max(0.0, float(np.median(differences)))
    finally:
        _clear(tables)


def _measure_rung(runner: ModelRunner, T: int, cells: CellCosts, view: View) -> float:
    """Return the seconds of a full forward less those of its cells."""
    num_sequences = min(len(runner.tables.num_held), T)
    spans = _spans(runner.tables, num_sequences, T // num_sequences, _short_context(runner.tables))
    seconds = _measure(runner, spans, T, view)
    num_cells = sum(span.start for span in spans)
    num_row_cells = sum(span.start * len(span.token_ids) for span in spans)
    cells_s = cells.sequence_s * num_cells + cells.row_s * num_row_cells
    return max(seconds - cells_s, LEAST_SHARE * seconds)


def _measure_cells(runner: ModelRunner, budgets: Sequence[int], view: View) -> CellCosts:
    """Tell apart what a cell costs once for its sequence and once for every row that sees it."""
    most = MOST_SEQUENCES.get(runner.device.type, len(runner.tables.num_held))
    num_sequences = max(1, min(len(runner.tables.num_held), budgets[-1] // BLOCK_ROWS, most))
    num_rows = min(BLOCK_ROWS, budgets[-1] // num_sequences)
    first = next(T for T in budgets if num_sequences <= T)
    of_one = _cell_s(runner, first, num_sequences, 1, view)
    if num_rows == 1:
        return CellCosts(sequence_s=of_one)
    fitting = next(T for T in budgets if num_sequences * num_rows <= T)
    of_many = _cell_s(runner, fitting, num_sequences, num_rows, view)
    row_s = float(np.clip((of_many - of_one) / (num_rows - 1), 0.0, of_one))
    return CellCosts(of_one - row_s, row_s)


def _cell_s(runner: ModelRunner, T: int, num_sequences: int, num_rows: int, view: View) -> float:
    """Return what a cell of each sequence adds to a forward with so many rows of each."""
    tables = runner.tables
    context = short = _short_context(tables)
    spans = _spans(tables, num_sequences, num_rows, context)
    seconds = short_s = _measure(runner, spans, T, view, at_least=CELL_REPEATS)
    num_sequences = len(spans)
    longest = min(_room(tables), tables.pool.num_pages // num_sequences * tables.pool.page_size) - num_rows
    while context < longest and seconds < CELLS_SHOW * short_s:
        context = min(LONGER * context, longest)
        longer = _spans(tables, num_sequences, num_rows, context)
        if len(longer) < num_sequences:
            break
        seconds = _measure(runner, longer, T, view, at_least=CELL_REPEATS)
    return max(0.0, seconds - short_s) / max(1, num_sequences * (context - short))


def _room(tables: PageTables) -> int:
    """Return the cells that a sequence can have."""
    return tables.pages.shape[1] * tables.pool.page_size


def _short_context(tables: PageTables) -> int:
    return min(SHORT_CONTEXT, _room(tables) // 2)


def _spans(tables: PageTables, num_sequences: int, num_rows: int, context: int) -> list[Span]:
    """Rows of each of so many slots, or of as many as the pool has pages for."""
    _clear(tables)
    num_rows = min(num_rows, _room(tables) - context)
    spans = []
    for slot in range(num_sequences):
        if tables.grow(slot, context + num_rows) < context + num_rows:
            break
        spans.append(Span(slot, context, [0] * num_rows))
    return spans or [Span(0, 0, [0])]


def _clear(tables: PageTables) -> None:
    for slot in range(len(tables.num_held)):
        tables.clear(slot)


def _measure(runner: ModelRunner, spans: Sequence[Span], T: int, view: View, *, at_least: int = 1) -> float:
    def forward() -> Hidden:
        return runner.forward(runner.lay_out(spans, view, token_budget=T), view)

    return _least(forward, runner.device, at_least=at_least)


def _least(work: Callable[[], object], device: torch.device, *, at_least: int = 1) -> float:
    """Return the least seconds of some calls."""
    taken: list[float] = []
    at_least = max(at_least, LEAST_REPEATS.get(device.type, 2))
    while len(taken) < REPEATS and (len(taken) < at_least or sum(taken) < ENOUGH_S):
        started_at = time.perf_counter()
        _run(work, device)
        taken.append(time.perf_counter() - started_at)
    return min(taken)


def _run(work: Callable[[], object], device: torch.device) -> None:
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
