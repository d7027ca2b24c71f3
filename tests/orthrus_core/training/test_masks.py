import itertools

import pytest
import torch

from orthrus_core.training.anchors import Blocks, sample_blocks
from orthrus_core.training.masks import block_diffusion_mask, causal_document_mask, within_window
from orthrus_core.training.packing import Document, PackedBatch, collate

LAYOUTS = {
    "one document": ([[(2, 5)]], 7),
    "two documents and padding": ([[(1, 4), (3, 6)]], 17),
    "several rows of odd sizes": ([[(1, 2), (2, 7), (1, 1)], [(4, 9)], []], 19),
}


def build(layout: str) -> PackedBatch:
    rows, sequence_len = LAYOUTS[layout]
    documents = [[Document([1] * prompt, [2] * completion) for prompt, completion in row] for row in rows]
    return collate(documents, sequence_len=sequence_len)


def dense_block_mask(batch: PackedBatch, blocks: Blocks) -> list[list[list[bool]]]:
    """The rule of the diffusion view, key by key."""
    B, A, K = blocks.in_block.shape
    N = batch.input_ids.shape[1]
    mask = [[[False] * (N + A * K) for _ in range(A * K)] for _ in range(B)]
    for b, a, i in itertools.product(range(B), range(A), range(K)):
        anchor = int(blocks.anchor_idx[b, a])
        for j in range(anchor):
            if batch.document_idx[b, j] == batch.document_idx[b, anchor]:
                mask[b][a * K + i][j] = True
        for i2 in range(K):
            mask[b][a * K + i][N + a * K + i2] = bool(blocks.in_block[b, a, i2])
    return mask


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ar_tokens_see_themselves_and_what_precedes_them_in_their_document(layout):
    batch = build(layout)
    mask = causal_document_mask(batch)[:, 0]
    for b, i, j in itertools.product(*(range(n) for n in mask.shape)):
        if batch.document_idx[b, i] >= 0:
            same_document = batch.document_idx[b, i] == batch.document_idx[b, j]
            assert mask[b, i, j] == (same_document and j <= i)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shorten_probability", [0.0, 0.7])
@pytest.mark.parametrize(("num_anchors", "block_size"), [(1, 2), (3, 5), (6, 4)])
def test_block_mask_equals_the_dense_rule(layout, shorten_probability, num_anchors, block_size):
    batch = build(layout)
    blocks = sample_blocks(
        batch,
        num_anchors=num_anchors,
        block_size=block_size,
        shorten_probability=shorten_probability,
        generator=torch.Generator().manual_seed(0),
    )
    assert block_diffusion_mask(batch, blocks)[:, 0].tolist() == dense_block_mask(batch, blocks)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_query_is_blind(layout):
    batch = build(layout)
    blocks = sample_blocks(batch, num_anchors=4, block_size=3, generator=torch.Generator().manual_seed(0))
    assert causal_document_mask(batch).any(-1).all()
    assert block_diffusion_mask(batch, blocks).any(-1).all()


def test_a_window_cuts_the_past_of_each_row_and_nothing_after_it():
    rows, keys = torch.tensor([[3, 4]]), torch.tensor([[0, 1, 2, 3, 4, 5]])
    assert within_window(rows, keys, 3).int().tolist() == [[[[0, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]]]]
