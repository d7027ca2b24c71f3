import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask

from orthrus_core.training.anchors import Blocks, sample_blocks
from orthrus_core.training.masks import Sight, block_mask, block_sight, text_sight
from tests.orthrus_core.training.sights import (
    LAYOUTS,
    build,
    document_of,
    slot_sees,
    slots_in_documents,
    text_sees,
)

every_layout = pytest.mark.parametrize("layout", LAYOUTS)
every_window = pytest.mark.parametrize("window", [None, 1, 3])


def draw(layout: str, *, num_anchors: int = 4, block_size: int = 3, shorten: float = 0.0) -> Blocks:
    return sample_blocks(
        build(layout),
        num_anchors=num_anchors,
        block_size=block_size,
        shorten_probability=shorten,
        generator=torch.Generator().manual_seed(0),
    )


def seen(mask_row: torch.Tensor) -> set[int]:
    return set(mask_row.nonzero()[:, 0].tolist())


@every_layout
@every_window
def test_tokens_see_themselves_and_what_precedes_them_in_their_document(layout, window):
    mask = text_sight(build(layout)).within(window).text_mask()[:, 0]
    for row, query in torch.cartesian_prod(*map(torch.arange, mask.shape[:2])).tolist():
        if document_of(layout, row, query):
            assert seen(mask[row, query]) == text_sees(layout, row, query, window)


@every_layout
@every_window
@pytest.mark.parametrize("shorten", [0.0, 0.7])
@pytest.mark.parametrize(("num_anchors", "block_size"), [(1, 2), (3, 5), (6, 4)])
def test_slots_see_what_precedes_their_anchor_and_their_own_block(
    layout, window, shorten, num_anchors, block_size
):
    blocks = draw(layout, num_anchors=num_anchors, block_size=block_size, shorten=shorten)
    sight = block_sight(build(layout), blocks).within(window)
    N, K = sight.num_text_keys, block_size
    together = sight.mask_of(torch.arange(sight.num_keys))[:, 0]
    text, own = sight.text_mask()[:, 0], sight.own_mask(K)[:, 0]
    for row, block, slot in slots_in_documents(layout, blocks):
        query = block * K + slot
        in_text, in_block = slot_sees(layout, blocks, row, block, slot, window)
        assert seen(text[row, query]) == in_text
        assert seen(own[row, query]) == in_block
        assert seen(together[row, query]) == in_text | {N + block * K + other for other in in_block}


@every_layout
@every_window
def test_no_query_is_blind_not_even_in_the_padding_or_past_the_end_of_a_short_block(layout, window):
    assert text_sight(build(layout)).within(window).text_mask().any(-1).all()
    blocks = draw(layout, num_anchors=6, block_size=5, shorten=1.0)
    sight = block_sight(build(layout), blocks, num_slots=33).within(window)
    assert sight.mask_of(torch.arange(sight.num_keys)).any(-1).all()


@every_layout
def test_spare_slots_see_themselves_alone(layout):
    sight = block_sight(build(layout), draw(layout), num_slots=20)
    mask = sight.mask_of(torch.arange(sight.num_keys))[:, 0]
    last = sight.num_text_keys + 19
    assert seen(mask[0, 19]) == {last}
    assert seen(mask[0, :, last]) == {19}


def padded_sights(layout: str, window: int | None, tile: int) -> list[Sight]:
    batch, blocks = build(layout).padded(tile), draw(layout, num_anchors=5, block_size=5, shorten=0.5)
    slots = blocks.in_block[0].numel()
    padded = block_sight(batch, blocks, num_slots=slots + -slots % tile)
    return [sight.within(window) for sight in (text_sight(batch), padded)]


@every_layout
@pytest.mark.parametrize(("window", "tile"), [(None, 4), (3, 2)])
def test_the_block_mask_has_the_tiles_that_torch_finds_by_looking_at_every_pair(layout, window, tile):
    for sight in padded_sights(layout, window, tile):
        B, Q = sight.place.shape
        expected = create_block_mask(sight.rule(), B, None, Q, sight.num_keys, device="cpu", BLOCK_SIZE=tile)
        found = block_mask(sight, tile=tile)
        assert torch.equal(found.to_dense(), expected.to_dense())
        assert (found.full_kv_num_blocks <= expected.full_kv_num_blocks).all()
        assert found.seq_lengths == expected.seq_lengths


def test_tiles_in_the_middle_of_a_document_are_whole():
    mask = block_mask(text_sight(build("several rows of odd sizes").padded(2)), tile=2)
    # The second row is a document of 13 tokens: its last tile of queries sees six tiles, five of them whole.
    assert mask.kv_num_blocks[1, 0, 6] + mask.full_kv_num_blocks[1, 0, 6] == 7
    assert mask.full_kv_num_blocks[1, 0, 5] == 5


@every_layout
def test_visible_pairs_are_counted_without_a_mask(layout):
    for sight in padded_sights(layout, 3, 4):
        assert sight.num_visible() == sight.mask_of(torch.arange(sight.num_keys)).sum()
