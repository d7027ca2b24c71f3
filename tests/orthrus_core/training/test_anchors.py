import pytest
import torch

from orthrus_core.training.anchors import (
    block_ids,
    block_positions,
    can_anchor,
    sample_blocks,
)
from orthrus_core.training.packing import Document, PackedBatch, collate

F, T = False, True


def sample(batch: PackedBatch, num_anchors: int, block_size: int = 3, seed: int = 0, **options: float):
    generator = torch.Generator().manual_seed(seed)
    return sample_blocks(
        batch, num_anchors=num_anchors, block_size=block_size, generator=generator, **options
    )


def two_documents() -> PackedBatch:
    return collate([[Document([10, 11], [12, 13, 14]), Document([20], [21, 22])]], sequence_len=9)


def test_only_completion_tokens_with_a_next_token_can_be_anchors():
    assert can_anchor(two_documents()).tolist() == [[F, F, T, T, F, F, T, F, F]]


def test_anchors_are_distinct_and_rows_short_of_anchors_have_untrained_blocks():
    blocks = sample(two_documents(), num_anchors=5)
    trained = blocks.anchor_idx[blocks.is_trained[..., 0]]
    assert sorted(trained.tolist()) == [2, 3, 6]
    assert blocks.is_trained[0].any(-1).sum() == 3


@pytest.mark.parametrize("seed", range(5))
def test_slots_end_where_their_document_ends(seed):
    blocks = sample(two_documents(), num_anchors=3, seed=seed)
    trained = dict(zip(blocks.anchor_idx[0].tolist(), blocks.is_trained[0].tolist(), strict=True))
    # Slot i of anchor t is taught at t + i and proposes the token t + i + 1: tokens 4 and 7 end documents.
    assert trained == {2: [T, T, F], 3: [T, F, F], 6: [T, F, F]}


def test_a_block_is_its_anchor_and_masks_at_the_positions_after_it():
    batch = two_documents()
    blocks = sample(batch, num_anchors=3)
    ids = dict(
        zip(
            blocks.anchor_idx[0].tolist(),
            block_ids(batch, blocks, mask_token_id=99).view(3, 3).tolist(),
            strict=True,
        )
    )
    positions = dict(
        zip(blocks.anchor_idx[0].tolist(), block_positions(batch, blocks).view(3, 3).tolist(), strict=True)
    )
    assert ids == {2: [12, 99, 99], 3: [13, 99, 99], 6: [21, 99, 99]}
    assert positions == {2: [2, 3, 4], 3: [3, 4, 5], 6: [1, 2, 3]}


def test_shortened_blocks_have_two_to_k_minus_one_slots():
    batch = collate([[Document([1], list(range(2, 200)))]], sequence_len=200)
    blocks = sample(batch, num_anchors=100, block_size=5, shorten_probability=1.0)
    assert set(blocks.in_block.sum(-1).flatten().tolist()) == {2, 3, 4}
    assert not (blocks.is_trained & ~blocks.in_block).any()


def test_blocks_are_full_unless_asked_otherwise():
    assert sample(two_documents(), num_anchors=3).in_block.all()


def test_one_seed_gives_the_same_blocks():
    batch = collate([[Document([1], list(range(2, 60)))]], sequence_len=64)
    assert torch.equal(sample(batch, 8, seed=3).anchor_idx, sample(batch, 8, seed=3).anchor_idx)
    assert not torch.equal(sample(batch, 8, seed=3).anchor_idx, sample(batch, 8, seed=4).anchor_idx)


def test_anchors_of_a_row_ascend():
    batch = collate([[Document([1], list(range(2, 60)))]] * 3, sequence_len=64)
    anchors = sample(batch, 8).anchor_idx
    assert (anchors[:, 1:] > anchors[:, :-1]).all()


def test_cut_blocks_keep_their_first_slots():
    blocks = sample(two_documents(), num_anchors=3).shortened(1)
    assert blocks.in_block.tolist() == [[[T, F, F]] * 3]
    assert blocks.is_trained.tolist() == [[[T, F, F]] * 3]
    assert blocks.slot_idx.shape == (1, 3, 3)
