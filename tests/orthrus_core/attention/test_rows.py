import numpy as np
import pytest
import torch

from orthrus_core.attention.rows import LINES, SEES_NOTHING, RowBuffer, Span, TokenRows, fill, span_rows

TABLES = np.array([[3, 5, 0, 0], [2, 4, 6, 0]])
CPU = torch.device("cpu")


def rows_of(spans, view="ar", buffer=None) -> TokenRows:
    buffer = buffer or RowBuffer(8, CPU)
    num_used = fill(buffer, span_rows(spans, view=view, page_tables=TABLES, page_size=4))
    return TokenRows(buffer.to_device(), num_used)


def line(rows: TokenRows, name: str) -> list[int]:
    return rows.packed[LINES.index(name)].tolist()


def test_rows_know_their_token_position_slot_and_cell():
    rows = rows_of([Span(0, 3, [7, 8]), Span(1, 9, [9])])
    assert rows.num_used == 3
    assert rows.token_ids.tolist() == [7, 8, 9, 0, 0, 0, 0, 0]
    assert rows.positions.tolist()[:3] == [3, 4, 9]
    assert line(rows, "slots")[:3] == [0, 0, 1]
    # slot 0: page 3 offset 3, page 5 offset 0; slot 1: page 6 offset 1
    assert line(rows, "cells")[:3] == [3 * 4 + 3, 5 * 4, 6 * 4 + 1]


def test_rows_left_over_write_to_the_scratch_page_and_see_nothing():
    rows = rows_of([Span(0, 3, [7])])
    assert all(cell < 4 for cell in line(rows, "cells")[1:])
    assert line(rows, "limits")[1:] == [SEES_NOTHING] * 7


def test_an_ar_row_sees_up_to_itself():
    assert line(rows_of([Span(0, 2, [1, 1, 1])]), "limits")[:3] == [2, 3, 4]


def test_a_diffusion_row_sees_its_whole_block():
    rows = rows_of([Span(0, 2, [1, 1, 1]), Span(1, 6, [1, 1])], view="diffusion")
    assert line(rows, "limits")[:5] == [4, 4, 4, 7, 7]


def test_a_buffer_filled_again_keeps_nothing_of_the_forward_before():
    buffer = RowBuffer(8, CPU)
    rows_of([Span(1, 0, [5] * 8)], buffer=buffer)
    again = rows_of([Span(0, 3, [7])], buffer=buffer)
    assert torch.equal(again.packed, rows_of([Span(0, 3, [7])]).packed)


def test_a_buffer_stays_where_it_is():
    buffer = RowBuffer(8, CPU)
    first = rows_of([Span(1, 0, [5])], buffer=buffer).packed.data_ptr()
    assert rows_of([Span(0, 3, [7])], buffer=buffer).packed.data_ptr() == first


def test_more_rows_than_the_budget_are_refused():
    with pytest.raises(ValueError, match="9 token rows, the token budget is 8"):
        rows_of([Span(0, 0, [1] * 9)])
