"""The kernel's work list, by hand."""

import numpy as np
import pytest

from orthrus_core.attention.tiling import Tiling
from orthrus_core.errors import ConfigError

TILING = Tiling(rows_per_tile=4, split_length=10, max_context=30)


def unpacked(plan: np.ndarray, T: int) -> dict[str, list]:
    rows, sizes, items = plan[1 : 1 + T], plan[1 + T : 1 + 2 * T], plan[1 + 2 * T :].reshape(-1, 2)
    assert len(items) == plan[0]
    tiles = int(items[:, 0].max()) + 1
    return {
        "rows": rows[:tiles].tolist(),
        "sizes": sizes[:tiles].tolist(),
        "items": [tuple(item) for item in items.tolist()],
    }


def test_spans_become_tiles_of_four_rows_and_cells_become_splits_of_ten():
    limits = np.array([7, 8, 9, 10, 11, 25])  # a span of five rows, then a single one
    plan = unpacked(TILING.plan(np.array([5, 1]), limits, 6), T=6)
    assert plan["rows"] == [0, 4, 5]
    assert plan["sizes"] == [4, 1, 1]
    assert plan["items"] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]


def test_rows_left_over_are_in_no_tile():
    plan = unpacked(TILING.plan(np.array([1]), np.array([12]), 6), T=6)
    assert plan["rows"] == [0]
    assert plan["items"] == [(0, 0), (0, 1)]


def test_the_longest_sequences_in_single_rows_make_the_longest_plan():
    plan = TILING.plan(np.ones(5, dtype=np.int64), np.full(5, 29), 5)
    assert plan[0] == 15
    assert len(plan) == TILING.plan_size(5) == 1 + 2 * 5 + 2 * 15


def test_a_row_past_the_context_is_refused():
    with pytest.raises(ValueError, match="sees cell 30, max_context is 30"):
        TILING.plan(np.array([1]), np.array([30]), 1)


def test_sizes_must_be_positive():
    with pytest.raises(ConfigError, match="split_length must be >= 1, got 0"):
        Tiling(rows_per_tile=1, split_length=0, max_context=1)
