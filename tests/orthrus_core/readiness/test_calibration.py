from types import SimpleNamespace

import numpy as np
import pytest
import torch

from orthrus_core.cache import PagePool, PageTables
from orthrus_core.costs import CellCosts
from orthrus_core.engine.runner import ModelRunner
from orthrus_core.readiness import calibration
from orthrus_core.readiness.calibration import ForwardCosts, measure_alike, measure_forwards
from tests.benchmarks.simulator import cells_s
from tests.small_models import small_orthrus


def tables_of(*, num_slots: int, cells: int) -> PageTables:
    pages = cells // 16
    return PageTables(PagePool(num_slots * pages + 1, 16), num_slots=num_slots, pages_per_sequence=pages)


def seconds_when_forwards_take(monkeypatch, taken: dict[int, float], budgets) -> tuple[float, ...]:
    monkeypatch.setattr(calibration, "_measure", lambda runner, spans, T, view, **_: taken[T])
    runner = SimpleNamespace(device=torch.device("cpu"), tables=tables_of(num_slots=2, cells=64))
    return measure_forwards(runner, budgets, "ar").rung_s


def seconds_of(spans, T: int, cells: CellCosts) -> float:
    contexts = np.array([span.start for span in spans])
    return 0.001 * T + cells_s(cells, contexts, np.array([len(span.token_ids) for span in spans]))


@pytest.mark.parametrize(
    "cells", [CellCosts(), CellCosts(1e-5, 0.0), CellCosts(3e-6, 2e-6), CellCosts(0.0, 1e-5)]
)
@pytest.mark.parametrize(
    ("num_slots", "room", "num_pages"), [(1, 4096, 300), (4, 512, 200), (64, 2048, 1000)]
)
def test_rungs_and_cells_are_told_apart(monkeypatch, cells, num_slots, room, num_pages):
    monkeypatch.setattr(
        calibration, "_measure", lambda runner, spans, T, view, **_: seconds_of(spans, T, cells)
    )
    tables = PageTables(PagePool(num_pages, 16), num_slots=num_slots, pages_per_sequence=room // 16)
    costs = measure_forwards(SimpleNamespace(device=torch.device("cpu"), tables=tables), (16, 64, 128), "ar")
    assert costs.cells == pytest.approx(cells, abs=1e-12)
    assert costs.rung_s == pytest.approx((0.016, 0.064, 0.128))
    assert tables.pool.num_available == num_pages - 1


def test_contexts_grow_until_their_cells_show(monkeypatch):
    contexts = []

    def measure(runner, spans, T, view, **_):
        contexts.append(spans[0].start)
        return seconds_of(spans, T, CellCosts(1e-4))

    monkeypatch.setattr(calibration, "_measure", measure)
    runner = SimpleNamespace(device=torch.device("cpu"), tables=tables_of(num_slots=1, cells=2**20))
    measure_forwards(runner, (16,), "ar")
    assert max(contexts) == 1024


def test_every_rung_gets_its_seconds():
    tables = tables_of(num_slots=4, cells=64)
    runner = ModelRunner(small_orthrus(), tables)
    seconds = measure_forwards(runner, (8, 16, 32), "ar").rung_s
    assert len(seconds) == 3
    assert 0 < seconds[0] <= seconds[1] <= seconds[2]
    assert tables.pool.num_available == tables.pool.num_pages - 1


def test_close_rungs_are_interpolated(monkeypatch):
    seconds = seconds_when_forwards_take(monkeypatch, {8: 1.0, 16: 5.0, 20: 9.0}, (8, 10, 12, 14, 16, 18, 20))
    assert seconds == (1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 9.0)


def test_a_rung_that_was_disturbed_costs_no_more_than_a_larger_one(monkeypatch):
    assert seconds_when_forwards_take(monkeypatch, {8: 1.0, 16: 9.0, 32: 2.0}, (8, 16, 32)) == (1.0, 2.0, 2.0)


def test_the_least_of_the_repeats_counts(monkeypatch):
    clock = iter([0.0, 0.03, 1.0, 1.01, 2.0, 2.02, 3.0, 3.05])
    monkeypatch.setattr(calibration.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(calibration, "_run", lambda *_: None)
    assert round(calibration._measure(SimpleNamespace(device=torch.device("cpu")), [], 8, "ar"), 6) == 0.01


def test_one_rung_is_measured_once(monkeypatch):
    assert seconds_when_forwards_take(monkeypatch, {64: 1.0}, (64,)) == (1.0,)


def test_a_pool_without_room_for_all_slots_is_measured_with_fewer():
    tables = PageTables(PagePool(5, 16), num_slots=8, pages_per_sequence=4)
    runner = ModelRunner(small_orthrus(), tables)
    assert len(measure_forwards(runner, (16,), "diffusion").rung_s) == 1
    assert tables.pool.num_available == 4


def test_a_view_that_does_the_same_work_is_measured_at_one_rung(monkeypatch):
    monkeypatch.setattr(calibration, "_measure", lambda runner, spans, T, view, **_: 0.002 * T)
    runner = SimpleNamespace(device=torch.device("cpu"), tables=tables_of(num_slots=2, cells=64))
    known = ForwardCosts((0.008, 0.016, 0.032), CellCosts())
    assert measure_alike(runner, known, (8, 16, 32), "diffusion").rung_s == (0.016, 0.032, 0.064)
