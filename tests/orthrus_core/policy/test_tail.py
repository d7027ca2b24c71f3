"""Who is worth hurrying at the end of a job."""

import numpy as np
import pytest

from orthrus_core.costs import CellCosts, Costs
from orthrus_core.policy.tail import Tail

FLAT = Costs((4,), draft_s=(1.0,), verify_s=(1.0,))


def worth(tail: Tail, *remaining: int) -> list[float]:
    return tail.worth(np.array(remaining), np.full(len(remaining), 100)).tolist()


def test_sequences_with_as_much_to_go_are_worth_the_same():
    assert worth(Tail(FLAT), 50, 50, 50) == pytest.approx([1.0, 1.0, 1.0])


def test_one_sequence_is_worth_one():
    assert worth(Tail(FLAT), 7) == pytest.approx([1.0])


def test_the_one_that_may_emit_the_most_is_worth_the_most():
    # the last one has .9 + .1 / 2 of all that there is
    assert worth(Tail(FLAT), 500, 10) == pytest.approx([2 * 0.95, 2 * 0.05])


def test_where_rows_cost_time_everybody_keeps_a_share():
    # one row takes 1 s, two rows 4 s: three quarters of the time are owed to rows
    tail = Tail(Costs((1, 2), draft_s=(1.0, 4.0), verify_s=(1.0, 4.0)))
    assert worth(tail, 500, 10) == pytest.approx([0.75 + 0.25 * 1.9, 0.75 + 0.25 * 0.1])


def test_where_cells_cost_time_everybody_keeps_a_share():
    # a row and its 100 cells take 1 s, two take 2 s beside the 2 s of the forward: 1 of 4 s is owed to them
    cells = CellCosts(sequence_s=0.005, row_s=0.005)
    tail = Tail(Costs((2,), draft_s=(2.0,), verify_s=(2.0,), verify_cells=cells))
    assert worth(tail, 500, 10) == pytest.approx([0.25 + 0.75 * 1.9, 0.25 + 0.75 * 0.1])
