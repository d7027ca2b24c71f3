"""The start-up check passes where bits agree and catches what makes them differ."""

import pytest
import torch

import orthrus_core.attention.paged as paged
from orthrus_core import Engine, EngineConfig
from orthrus_core.attention.sdpa import attend_sdpa
from tests.small_models import small_orthrus

CONFIG = EngineConfig(token_budget=32, max_sequences=2, max_context=640)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_this_machine_is_exact(dtype):
    engine = Engine(small_orthrus(dtype=dtype), CONFIG)
    assert engine.exactness == "exact"
    assert engine.report()["query_widths"][-1] == 32


def test_the_check_gives_all_pages_back():
    engine = Engine(small_orthrus(), CONFIG)
    pool = engine._scheduler._tables.pool
    assert pool.num_available == pool.num_pages - 1


def test_without_the_check_nothing_is_claimed():
    assert Engine(small_orthrus(), CONFIG.model_copy(update={"self_check": False})).exactness == "unverified"


def test_small_engines_are_checked_too():
    config = EngineConfig(token_budget=4, max_sequences=1, max_context=8, page_size=2)
    assert Engine(small_orthrus(), config).exactness == "exact"


def test_a_shape_that_disagrees_is_left_out(monkeypatch):
    def wrong_at_width_4(q, cache, groups, **arguments):
        out = attend_sdpa(q, cache, groups, **arguments)
        return out * (1 + 1e-6) if groups.rows.shape[1] == 4 else out

    monkeypatch.setattr(paged.PagedAttend.__init__, "__defaults__", (wrong_at_width_4,))
    engine = Engine(small_orthrus(), CONFIG)
    assert engine.exactness == "exact"
    assert engine.report()["query_widths"] == [2, 8, 16, 32]


def test_bits_that_depend_on_the_neighbours_are_caught(monkeypatch, caplog):
    def leaky(q, cache, groups, **arguments):
        out = attend_sdpa(q, cache, groups, **arguments)
        return out * (1 + 1e-6 * groups.rows.shape[0])

    monkeypatch.setattr(paged.PagedAttend.__init__, "__defaults__", (leaky,))
    engine = Engine(small_orthrus(), CONFIG)
    assert engine.exactness == "unverified"
    assert "exactness=unverified" in caplog.text
