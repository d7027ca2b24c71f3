"""Figures of step times, with forwards that take as long as the test says."""

import pytest
import torch

from orthrus_core.evaluation.curve import AcceptanceCurve
from orthrus_core.evaluation.random_model import random_model
from tests.benchmarks.gpu.shapes import model_shape
from tests.benchmarks.gpu.steps import StepTimer, replay_decoding, rung_for, time_steps
from tests.orthrus_core.evaluation.shapes import TINY


class FakeTimer:
    """A forward of T rows takes T seconds and 16 more for the draft."""

    def __init__(self, device: str = "cuda", room: int = 10**9):
        self.device = torch.device(device)
        self.room = room

    def hold(self, sequences: int, context: int) -> bool:
        return sequences * context <= self.room

    def forward_s(self, view: str, *, sequences: int, rows_each: int, context: int, budget: int) -> float:
        assert sequences * rows_each <= budget
        return budget + 16.0 * (view == "diffusion")


@pytest.mark.parametrize(("rows", "rung"), [(1, 16), (16, 16), (17, 32), (256, 256), (257, None)])
def test_a_forward_takes_the_smallest_budget_that_holds_its_rows(rows, rung):
    assert rung_for(rows) == rung


def test_the_bound_is_bytes_over_bandwidth():
    rows = {row["T"]: row for row in time_steps(FakeTimer(), TINY, context=100, bytes_per_s=2000.0)}
    # TINY: 188 matrix numbers of 2 bytes and 16 bytes of K/V per token; 8 sequences of 100 and 64 rows
    assert rows[64]["bound_ms"] == pytest.approx(1e3 * (188 * 2 + (800 + 64) * 16) / 2000)
    assert rows[64]["over_bound"] == pytest.approx(64 / ((188 * 2 + (800 + 64) * 16) / 2000))


def test_draft_and_verify_are_compared_with_the_smallest_ar_forward():
    rows = {row["T"]: row for row in time_steps(FakeTimer(), TINY, context=100, bytes_per_s=2000.0)}
    assert rows[32]["pair_over_ar"] == (32 + 16 + 32) / 16


def test_targets_hold_up_to_64_rows_on_cuda():
    bound_s = (188 * 2 + (200 + 16) * 16) / 2000  # of 16 rows: 1.916
    rows = {row["T"]: row for row in time_steps(FakeTimer(), TINY, context=100, bytes_per_s=2000.0)}
    assert bound_s < 16 / 1.35
    assert rows[16]["passed"] is False
    assert rows[128]["passed"] is None
    fast = {row["T"]: row for row in time_steps(FakeTimer(), TINY, context=100, bytes_per_s=1.0)}
    assert fast[16]["passed"] is False  # draft + verify takes 3 AR forwards
    assert all(
        row["passed"] is None for row in time_steps(FakeTimer("cpu"), TINY, context=1, bytes_per_s=1.0)
    )


def test_replayed_rates_take_the_best_number_of_drafts():
    curves = {"good": AcceptanceCurve.geometric(1.0, 31), "bad": AcceptanceCurve.geometric(0.0, 31)}
    (row,) = replay_decoding(FakeTimer(), curves, batches=[1], contexts=[100])
    assert row["ar_tokens_per_s"] == 1 / 16
    assert row["good: best K"] == 31  # 32 tokens for a draft and a verify forward of 32 rows: 48 + 32 s
    assert row["good: over AR"] == pytest.approx(32 / 80 * 16)
    assert (row["bad: best K"], row["bad: over AR"]) == (0, 1.0)


def test_a_load_beyond_the_memory_is_named():
    curves = {"good": AcceptanceCurve.geometric(1.0, 31)}
    rows = list(replay_decoding(FakeTimer(room=1000), curves, batches=[8], contexts=[100, 200]))
    assert "ar_tokens_per_s" in rows[0]
    assert rows[1] == {"batch": 8, "context": 200, "result": "does not fit"}


@pytest.fixture(scope="module")
def timer() -> StepTimer:
    shape = model_shape("tiny", dtype=torch.float32)
    model = random_model(shape, device=torch.device("cpu"), dtype=torch.float32, max_context=128)
    return StepTimer(model, shape, max_sequences=4, max_context=64, compiled=False)


def test_a_timer_refuses_what_its_pages_cannot_hold(timer):
    assert timer.hold(4, 64)
    assert not timer.hold(5, 64)
    assert not timer.hold(4, 1000)
    assert timer.hold(4, 64)


def test_a_timer_runs_both_views(timer):
    timer.hold(2, 40)
    for view in ("ar", "diffusion"):
        assert timer.forward_s(view, sequences=2, rows_each=8, context=40, budget=16) > 0
