import pytest
import torch

from orthrus_core.training.acceptance import AcceptanceCounts, BlockLengths

F, T = False, True


def test_drafts_count_up_to_the_first_mismatch_and_the_end_of_the_text():
    counts = AcceptanceCounts(3)
    agrees = torch.tensor([[[T, T, T], [T, F, T], [F, T, T], [T, T, F], [T, T, T]]])
    is_draft = torch.tensor([[[T, T, T], [T, T, T], [T, T, T], [T, F, F], [F, F, F]]])
    counts.add(agrees, is_draft)
    figures = counts.figures()
    # accepted: 3, 1, 0, 1 of four blocks; the fifth has no draft.
    assert figures["acceptance_length"] == pytest.approx(1 + 5 / 4)
    assert figures["accepted_at_1"] == pytest.approx(3 / 4)
    assert figures["accepted_at_2"] == pytest.approx(1 / 2)
    assert figures["accepted_at_3"] == pytest.approx(1 / 1)


def test_counts_add_up_over_batches():
    counts = AcceptanceCounts(2)
    for agrees in ([T, T], [F, F]):
        counts.add(torch.tensor([[agrees]]), torch.ones(1, 1, 2, dtype=torch.bool))
    assert counts.figures()["acceptance_length"] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("block_size", "expected"), [(2, [2]), (4, [4]), (8, [4, 8]), (32, [4, 8, 16, 32]), (10, [4, 8, 10])]
)
def test_blocks_are_measured_at_4_8_16_where_k_is_more_and_at_k(block_size, expected):
    assert list(BlockLengths(block_size)) == expected


def test_figures_of_short_blocks_stand_beside_those_of_full_ones():
    lengths = BlockLengths(5)
    agrees = torch.tensor([[[T, T, F, T, T]]])
    lengths.add(4, agrees, torch.tensor([[[T, T, T, T, F]]]))
    lengths.add(5, ~agrees, torch.ones_like(agrees))
    figures = lengths.figures()
    assert figures["acceptance_length_at_4"] == pytest.approx(3)
    assert figures["acceptance_length"] == pytest.approx(1)
    assert "acceptance_length_at_5" not in figures
