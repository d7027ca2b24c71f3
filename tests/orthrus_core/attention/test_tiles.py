import numpy as np
import torch

from orthrus_core.attention.tiles import AttentionShapes, group_rows
from orthrus_core.decoding.rows import Span, span_rows

SHAPES = AttentionShapes((2, 4), (8,))
TABLES = np.array([[3, 5, 0, 0], [2, 4, 6, 0]])


def groups_of(spans, *, shapes=SHAPES, num_rows=8):
    rows = span_rows(spans, view="ar", page_tables=TABLES, page_size=4)
    return group_rows(rows, num_rows, shapes, torch.device("cpu"))


def test_every_row_stands_at_its_own_place_in_the_groups():
    groups = groups_of([Span(0, 0, [1] * 5), Span(1, 0, [1] * 2)])
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
    groups = groups_of([Span(0, 1, [1]), Span(1, 9, [1])], shapes=AttentionShapes((2,), (8,)))
    assert groups.tile_groups.tolist() == [0, 1, 1]
    assert groups.tile_starts.tolist() == [0, 0, 8]
    assert groups.merge.tolist() == [[0, -1], [1, 2]]
    assert groups.tables.tolist() == [[3, 5], [2, 4], [6, 0]]


def test_a_sliding_window_hides_old_cells():
    groups = groups_of([Span(0, 5, [1])])
    mask = groups.mask(page_size=4, repeats=1, window=3, dtype=torch.float32)
    assert (mask[0, 0, 0] == 0).tolist() == [False, False, False, True, True, True, False, False]
