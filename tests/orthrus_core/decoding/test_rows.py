import numpy as np
import pytest
import torch

from orthrus_core.decoding.rows import AttentionShapes, Span, lay_out

SHAPES = AttentionShapes((2, 4), (8,))
TABLES = np.array([[3, 5, 0, 0], [2, 4, 6, 0]])


def rows_of(spans, view="ar", token_budget=8, page_size=4, shapes=SHAPES):
    return lay_out(
        spans, view=view, token_budget=token_budget, page_tables=TABLES, page_size=page_size, shapes=shapes,
        device=torch.device("cpu"),
    )  # fmt: skip


def limits_of(rows):
    return rows.groups.limits.flatten()[rows.groups.places].tolist()


def test_rows_know_their_token_position_and_cell():
    rows = rows_of([Span(0, 3, [7, 8]), Span(1, 9, [9])])
    assert rows.token_ids.tolist() == [7, 8, 9, 0, 0, 0, 0, 0]
    assert rows.positions.tolist()[:3] == [3, 4, 9]
    # slot 0: page 3 offset 3, page 5 offset 0; slot 1: page 6 offset 1
    assert rows.cells.tolist()[:3] == [3 * 4 + 3, 5 * 4, 6 * 4 + 1]


def test_rows_left_over_write_to_the_scratch_page():
    rows = rows_of([Span(0, 3, [7])])
    assert all(cell < 4 for cell in rows.cells.tolist()[1:])


def test_an_ar_row_sees_up_to_itself():
    assert limits_of(rows_of([Span(0, 2, [1, 1, 1])]))[:3] == [2, 3, 4]


def test_a_diffusion_row_sees_its_whole_block():
    rows = rows_of([Span(0, 2, [1, 1, 1]), Span(1, 6, [1, 1])], view="diffusion")
    assert limits_of(rows)[:5] == [4, 4, 4, 7, 7]


def test_every_row_stands_at_its_own_place_in_the_groups():
    rows = rows_of([Span(0, 0, [1] * 5), Span(1, 0, [1] * 2)])
    groups = rows.groups
    assert groups.rows.flatten()[groups.places[:7]].tolist() == list(range(7))


def test_the_width_that_wastes_least_is_taken():
    shapes = AttentionShapes((2, 8, 16), (64,))
    assert shapes.width_for(np.array([1, 1, 1])) == 2
    assert shapes.width_for(np.array([8])) == 8
    assert shapes.width_for(np.array([16])) == 16


def test_a_forward_within_one_tile_takes_the_shortest_that_holds_it():
    shapes = AttentionShapes((2,), (64, 128, 256))
    assert [shapes.tile_for(cell) for cell in (0, 63, 64, 255, 256, 9999)] == [64, 64, 128, 256, 256, 256]


def test_long_sequences_are_tiled_and_short_ones_keep_one_tile():
    rows = rows_of([Span(0, 1, [1]), Span(1, 9, [1])], shapes=AttentionShapes((2,), (8,)))
    assert rows.groups.tile_groups.tolist() == [0, 1, 1]
    assert rows.groups.tile_starts.tolist() == [0, 0, 8]
    assert rows.groups.merge.tolist() == [[0, -1], [1, 2]]
    assert rows.groups.tables.tolist() == [[3, 5], [2, 4], [6, 0]]


def test_more_rows_than_the_budget_are_refused():
    with pytest.raises(ValueError, match="9 token rows, the token budget is 8"):
        rows_of([Span(0, 0, [1] * 9)])


def test_a_sliding_window_hides_old_cells():
    rows = rows_of([Span(0, 5, [1])])
    mask = rows.groups.mask(page_size=4, repeats=1, window=3, dtype=torch.float32)
    assert (mask[0, 0, 0] == 0).tolist() == [False, False, False, True, True, True, False, False]
