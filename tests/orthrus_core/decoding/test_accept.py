import torch

from orthrus_core.decoding.accept import longest_agreeing_prefix

X = -1


def accept(drafted: list[int], verified: list[int], num_drafts: int) -> int:
    return int(
        longest_agreeing_prefix(torch.tensor([drafted]), torch.tensor([verified]), torch.tensor([num_drafts]))
    )


def test_all_agree():
    assert accept([7, 8, 9], [7, 8, 9, 1], 3) == 3


def test_the_first_mismatch_ends_the_prefix_even_if_later_drafts_agree():
    assert accept([7, 8, 9], [7, 5, 9, 1], 3) == 1


def test_none_agree():
    assert accept([7, 8, 9], [1, 8, 9, 1], 3) == 0


def test_entries_past_num_drafts_do_not_count():
    assert accept([7, 8, 9], [7, 8, 9, 1], 2) == 2
    assert accept([X, X, X], [X, X, X, X], 0) == 0


def test_sequences_are_judged_one_by_one():
    draft_ids = torch.tensor([[1, 2], [1, 2], [1, 2]])
    verify_ids = torch.tensor([[1, 2, 3], [1, 3, 3], [0, 2, 3]])
    assert longest_agreeing_prefix(draft_ids, verify_ids, torch.tensor([2, 2, 2])).tolist() == [2, 1, 0]
