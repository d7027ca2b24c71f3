"""The kernel's work list, by hand."""

import numpy as np
import pytest

from orthrus_core.attention.rows import Span, span_rows
from orthrus_core.attention.tiling import WHOLE, Tiling
from orthrus_core.errors import ConfigError

SIZES = {"rows_per_tile": 4, "split_length": 10, "max_context": 30, "max_partials": 100}
TILING = Tiling(**SIZES, programs_per_head=1000)  # every tile of several splits is worth spreading
TABLES = np.arange(1, 81).reshape(20, 4)


def plan_of(tiling: Tiling, *spans: tuple[int, int], T: int = 6) -> np.ndarray:
    """Plan (start, rows) spans, each of a sequence of its own."""
    laid_out = [Span(slot, start, [0] * rows) for slot, (start, rows) in enumerate(spans)]
    return tiling.plan(span_rows(laid_out, view="ar", page_tables=TABLES, page_size=10), T)


def unpacked(plan: np.ndarray, T: int = 6) -> dict[str, list]:
    items = plan[2 + 5 * T :].reshape(-1, 2)
    assert len(items) == plan[0]
    tiles = plan[2 : 2 + 3 * T].reshape(3, T)[:, : items[:, 0].max() + 1]
    merges = plan[2 + 3 * T : 2 + 5 * T].reshape(T, 2)[: plan[1]]
    names = ("rows", "sizes", "partials")
    return dict(zip(names, tiles.tolist(), strict=True)) | {
        "items": [tuple(item) for item in items.tolist()],
        "merges": [tuple(merge) for merge in merges.tolist()],
    }


def test_spans_become_tiles_of_four_rows_and_those_of_a_span_go_split_by_split():
    plan = unpacked(plan_of(TILING, (7, 5), (25, 1)))  # a span of five rows, then a single one
    assert plan["rows"] == [0, 4, 5]
    assert plan["sizes"] == [4, 1, 1]
    assert plan["items"] == [(0, 0), (1, 0), (0, 1), (1, 1), (2, 0), (2, 1), (2, 2)]


def test_a_spread_tile_has_a_partial_for_every_row_and_split_and_its_rows_are_merged():
    plan = unpacked(plan_of(TILING, (7, 5), (25, 1)))
    assert plan["partials"] == [0, 4 * 2, 4 * 2 + 1 * 2]
    assert plan["merges"] == [(0, 0), (1, 0), (2, 0), (3, 0), (4, 1), (5, 2)]


def test_a_tile_that_is_a_small_part_of_a_program_s_share_is_walked_whole():
    plan = unpacked(plan_of(Tiling(**SIZES, programs_per_head=1), *[(25, 1)] * 16, T=16), T=16)
    assert plan["items"] == [(tile, WHOLE) for tile in range(16)]
    assert plan["merges"] == []


def test_the_longest_are_spread_first_as_far_as_partials_are_left():
    tiling = Tiling(**SIZES | {"max_partials": 5}, programs_per_head=1000)
    plan = unpacked(plan_of(tiling, (15, 1), (25, 1), (16, 1)))
    assert plan["items"] == [(2, WHOLE), (0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    assert plan["merges"] == [(0, 0), (1, 1)]


def test_a_tile_of_one_split_needs_no_merge():
    assert unpacked(plan_of(TILING, (3, 2)))["items"] == [(0, WHOLE)]


def test_rows_left_over_are_in_no_tile():
    plan = unpacked(plan_of(TILING, (12, 1)))
    assert plan["rows"] == [0]
    assert plan["items"] == [(0, 0), (0, 1)]


def test_the_longest_sequences_in_single_rows_fit_a_plan():
    plan = plan_of(TILING, *[(29, 1)] * 5, T=5)
    assert plan[0] == 15
    assert len(plan) <= TILING.plan_size(5)
    assert TILING.num_partials(5) == 15


def test_a_row_past_the_context_is_refused():
    with pytest.raises(ValueError, match="sees cell 30, max_context is 30"):
        plan_of(TILING, (30, 1))


def test_sizes_must_be_positive():
    with pytest.raises(ConfigError, match="split_length must be >= 1, got 0"):
        Tiling(**SIZES | {"split_length": 0})
