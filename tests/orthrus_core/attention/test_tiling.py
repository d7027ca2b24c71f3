"""The kernel's work list, by hand."""

import numpy as np
import pytest

from orthrus_core.attention.tiling import Tiling
from orthrus_core.errors import ConfigError

TILING = Tiling(rows_per_tile=4, split_length=10, max_context=30)


def unpacked(plan: np.ndarray, T: int) -> dict[str, list[int]]:
    count = int(plan[0])
    rows, sizes, items, splits = (plan[start:] for start in TILING.offsets(T))
    tiles = int(items[:count].max()) + 1
    return {
        "rows": rows[:tiles].tolist(),
        "sizes": sizes[:tiles].tolist(),
        "items": list(zip(items[:count].tolist(), splits[:count].tolist(), strict=True)),
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


@pytest.mark.parametrize("counts", [[1], [2, 1, 3], [7, 1]])
def test_the_array_has_the_same_length_for_every_arrangement_of_as_many_rows(counts):
    limits = np.zeros(sum(counts), dtype=np.int64)
    assert len(TILING.plan(np.array(counts), limits, 8)) == TILING.plan_size(8) == 1 + 2 * 8 + 2 * 8 * 3


def test_the_longest_sequences_in_single_rows_fill_the_list_to_its_end():
    plan = TILING.plan(np.ones(5, dtype=np.int64), np.full(5, 29), 5)
    assert plan[0] == 15
    assert plan[-1] == 2


def test_a_row_past_the_context_is_refused():
    with pytest.raises(ValueError, match="sees cell 30, max_context is 30"):
        TILING.plan(np.array([1]), np.array([30]), 1)


def test_sizes_must_be_positive():
    with pytest.raises(ConfigError, match="split_length must be >= 1, got 0"):
        Tiling(rows_per_tile=1, split_length=0, max_context=1)
