import numpy as np
import torch

from orthrus_core.choosers.rejection import count_standing
from orthrus_core.engine.step import NO_TOKEN
from orthrus_core.engine.verdict import longest_agreeing_prefix

ANCHOR, OTHER = 90, 91


def accept(drafted: list[int], verified: list[int]) -> int:
    """Judge one block between rows of others, whose choices equal the token of the next row."""
    tokens = np.array([OTHER, ANCHOR, *drafted, OTHER, OTHER])
    choices = np.array([ANCHOR, *verified, OTHER, OTHER])
    return int(longest_agreeing_prefix(tokens, choices, np.array([1]), np.array([len(drafted)]))[0])


def test_all_agree():
    assert accept([7, 8, 9], [7, 8, 9, 1]) == 3


def test_the_first_mismatch_ends_the_prefix_even_if_later_drafts_agree():
    assert accept([7, 8, 9], [7, 5, 9, 1]) == 1


def test_none_agree():
    assert accept([7, 8, 9], [1, 8, 9, 1]) == 0


def test_rows_of_the_next_block_do_not_count():
    assert accept([7, 8], [7, 8, OTHER]) == 2
    assert accept([], [OTHER]) == 0


def test_the_last_row_of_a_forward_may_end_a_block():
    tokens, choices = np.array([ANCHOR, 7, 8]), np.array([7, 8, 9])
    assert longest_agreeing_prefix(tokens, choices, np.array([0]), np.array([2])).tolist() == [2]


def test_a_block_that_the_rejection_rule_ended_goes_no_further_even_with_the_draft_s_own_id():
    assert accept([7, 8, 9], [7, 8, NO_TOKEN, NO_TOKEN]) == 1


def test_sequences_are_judged_one_by_one():
    tokens = np.array([ANCHOR, 1, 2, ANCHOR, 1, 2, ANCHOR, 1, 2])
    choices = np.array([1, 2, 3, 1, 3, 3, 0, 2, 3])
    blocks = np.array([0, 3, 6]), np.array([2, 2, 2])
    assert longest_agreeing_prefix(tokens, choices, *blocks).tolist() == [2, 1, 0]


def test_standing_drafts_are_counted_to_the_first_that_falls_and_no_further_than_there_are():
    stands = torch.tensor([[True, True, True], [True, False, True], [True, True, True]])
    assert count_standing(stands, torch.tensor([3, 3, 1])).tolist() == [3, 1, 1]
