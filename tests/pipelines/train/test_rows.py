import pyarrow as pa
import pytest

from pipelines.train.rows import RowCounts, RowRules, usable_rows

RULES = RowRules(max_tokens=6, vocab_size=10, mask_token_id=3)
IDS = pa.list_(pa.int64())


def check(prompt, completion, error=None) -> tuple[list, RowCounts, int | None]:
    """One row between two good ones."""
    table, counts, bad_id = usable_rows(
        pa.array([[1], prompt, [1, 2]], IDS),
        pa.array([[4, 5], completion, [6, 7, 8]], IDS),
        pa.array([None, error, None], pa.string()),
        RULES,
    )
    return table.to_pylist(), counts, bad_id


def test_good_rows_come_out_in_order_with_their_tokens_counted():
    rows, counts, _ = check([9], [8, 0])
    assert [row["prompt_ids"] for row in rows] == [[1], [9], [1, 2]]
    assert [row["completion_ids"] for row in rows] == [[4, 5], [8, 0], [6, 7, 8]]
    assert counts == RowCounts(rows=3, used=3, tokens=1 + 2 + 1 + 2 + 2 + 3, completion_tokens=7)


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("errors", ([9], [8, 0], "no memory")),
        ("no_prompt", (None, [8, 0])),
        ("no_prompt", ([], [8, 0])),
        ("no_completion", ([9], None)),
        ("no_completion", ([9], [8])),
        ("with_mask", ([9], [8, 3, 0])),
        ("with_mask", ([3], [8, 0])),
        ("too_long", ([9, 9, 9, 9, 9], [8, 0])),
    ],
)
def test_rows_without_use_are_left_out_and_counted_by_reason(name, row):
    rows, counts, bad_id = check(*row)
    assert [row["prompt_ids"] for row in rows] == [[1], [1, 2]]
    assert counts == RowCounts(rows=3, used=2, tokens=8, completion_tokens=5, **{name: 1})
    assert bad_id is None


def test_the_first_reason_counts():
    assert check(None, None, "no memory")[1].errors == 1


@pytest.mark.parametrize(("completion", "bad"), [([8, 10], 10), ([-4, 8], -4), ([8, None], -1)])
def test_ids_outside_the_vocabulary_are_named(completion, bad):
    rows, counts, bad_id = check([9], completion)
    assert (rows, bad_id, counts.bad_ids) == ([], bad, 1)


def test_ids_of_rows_that_are_errors_do_not_matter():
    assert check([99], [99, 99], "no memory")[2] is None
