"""Sums over a unit's rows."""

import pyarrow as pa
import pytest

from pipelines.generate.write.unit_facts import (
    error_kind,
    keep_largest,
    length_bucket,
    unit_facts,
    value_text,
)

COLUMNS = {
    "id": ["a", "b", "c", "d"],
    "domain": ["math", "code", None, "math"],
    "error": [None, None, "prompt has 900 tokens, max is 10", None],
    "completion_tokens": [17, 40, 0, 32],
    "steps": [4, 10, 0, 0],
    "step_tokens": [17, 39, 0, 0],
}


@pytest.fixture
def facts():
    return unit_facts(pa.table(COLUMNS), ["domain"])


def test_rows_are_summed_by_the_columns_asked_for(facts):
    groups = facts["groups"]["domain"]
    assert groups["math"] == {"rows": 2, "errors": 0, "completion_tokens": 49, "steps": 4, "step_tokens": 17}
    assert groups["code"]["step_tokens"] == 39
    assert groups["(null)"] == {"rows": 1, "errors": 1, "completion_tokens": 0, "steps": 0, "step_tokens": 0}


def test_completions_are_summed_by_length_and_errors_are_none(facts):
    assert {name: sums["rows"] for name, sums in facts["lengths"].items()} == {"32": 2, "64": 1}


def test_buckets_end_at_powers_of_two():
    assert [length_bucket(n) for n in (0, 1, 8, 9, 16, 17, 1024, 1025)] == [
        "8", "8", "8", "16", "16", "32", "1024", "2048"
    ]  # fmt: skip


def test_errors_are_counted_by_kind_with_their_rows(facts):
    assert facts["errors"] == {
        "prompt has N tokens, max is N": {
            "count": 1,
            "examples": [{"id": "c", "error": "prompt has 900 tokens, max is 10"}],
        }
    }


def test_a_kind_has_no_numbers_quotes_or_lines():
    assert error_kind("token 12 is 'a b'\nsee \"x\" at 0.5") == "token N is '…' see '…' at N.N"


def test_values_are_one_line_of_bounded_length():
    assert value_text("a\n b") == "a b"
    assert len(value_text("x" * 500)) == 80


def test_small_groups_are_summed_up_as_other():
    groups = {name: {"rows": rows} for name, rows in (("a", 1), ("b", 5), ("(other)", 2), ("c", 3))}
    assert keep_largest(groups, 2) == {"b": {"rows": 5}, "c": {"rows": 3}, "(other)": {"rows": 3}}


def test_a_group_whose_value_python_cannot_hold_says_so():
    times = pa.array([2**62] * 4, pa.timestamp("ms"))
    groups = unit_facts(pa.table({**COLUMNS, "t": times}), ["t"])["groups"]["t"]
    assert [name.startswith("column t cannot be read") for name in groups] == [True]
