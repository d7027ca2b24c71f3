"""Whether the start-up check finds out that rows keep their bits beside blocks."""

import pytest
import torch

from orthrus_core import EngineConfig
from orthrus_core.linear.native import NativeLinear
from orthrus_core.models.readout import Hidden
from orthrus_core.readiness.both_views import both_views_agree
from orthrus_core.readiness.calibration import measure_both
from orthrus_core.readiness.engine import new_runner
from tests.small_models import small_orthrus

BUDGETS = (8, 16, 32)


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=str)
def runner(request):
    model = small_orthrus(dtype=request.param, block_size=8)
    config = EngineConfig(max_sequences=2, max_context=96, num_pages=20, token_budget=32)
    runner = new_runner(model, config)
    runner.use(model, NativeLinear(model.dtype))
    return runner


def test_rows_agree_through_products_that_do_not_know_how_many_they_are(runner):
    assert both_views_agree(runner, BUDGETS)
    assert measure_both(runner, BUDGETS) >= 0
    assert runner.tables.pool.num_available == 19


def test_a_row_that_is_another_one_beside_blocks_is_found(runner, monkeypatch, caplog):
    forward = runner.forward_both

    def nudged(ar, blocks, copies):
        states, sums = forward(ar, blocks, copies)
        return Hidden(states + torch.eye(*states.shape, dtype=states.dtype), sums)

    monkeypatch.setattr(runner, "forward_both", nudged)
    with caplog.at_level("INFO"):
        assert not both_views_agree(runner, BUDGETS)
    assert "one_forward=off: beside blocks rows have other bits" in caplog.text


def test_an_attention_that_takes_no_rows_of_both_views_is_left_alone(runner, monkeypatch, caplog):
    def refuse(*_):
        raise TypeError("forward() got an unexpected keyword argument")

    monkeypatch.setattr(runner, "forward_both", refuse)
    with caplog.at_level("INFO"):
        assert not both_views_agree(runner, BUDGETS)
    assert "unexpected keyword" in caplog.text
    assert runner.tables.pool.num_available == 19
