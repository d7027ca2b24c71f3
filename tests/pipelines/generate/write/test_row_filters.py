"""Which rows filters take out."""

import time

import pyarrow as pa
import pytest
from pydantic import ValidationError

from pipelines.generate.config.output import RowFilters
from pipelines.generate.write.row_filters import count_reasons, dropped_reasons, is_json


def reasons(filters, *rows):
    """Args: rows of (completion, finish_reason, completion_tokens)."""
    names = ("completion", "finish_reason", "completion_tokens")
    types = (pa.string(), pa.string(), pa.int32())
    cells = zip(names, types, zip(*rows, strict=True), strict=True)
    table = pa.table({name: pa.array(values, kind) for name, kind, values in cells})
    return dropped_reasons(table, RowFilters.model_validate(filters))


@pytest.mark.parametrize(
    ("filters", "reason"),
    [
        ({"finish_reason": ["length"]}, "finish_reason: stop"),
        ({"min_tokens": 4}, "min_tokens: 3 < 4"),
        ({"max_tokens": 2}, "max_tokens: 3 > 2"),
        ({"min_chars": 6}, "min_chars: 5 < 6"),
        ({"max_chars": 4}, "max_chars: 5 > 4"),
        ({"regex": "^a$"}, "regex: not found"),
        ({"not_regex": "l+"}, "not_regex: found"),
        ({"valid_json": True}, "valid_json: it is none"),
        ({"max_tokens": 1, "max_chars": 1}, "max_tokens: 3 > 1"),
    ],
)
def test_a_row_that_fails_a_filter_says_which(filters, reason):
    assert reasons(filters, ("hallo", "stop", 3)) == [reason]


@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"finish_reason": ["stop", "length"]},
        {"min_tokens": 3, "max_tokens": 3, "min_chars": 5, "max_chars": 5},
        {"regex": "^h.*o$", "not_regex": "x"},
    ],
)
def test_a_row_that_fulfils_all_filters_stays(filters):
    assert reasons(filters, ("hallo", "stop", 3)) == [None]


def test_characters_are_not_bytes():
    assert reasons({"max_chars": 2}, ("\u00e4\N{SNOWMAN}", "stop", 3)) == [None]


def test_error_rows_stay_unless_the_config_says_otherwise():
    bad = (None, "error", 0)
    assert reasons({"min_tokens": 1, "regex": "x"}, bad) == [None]
    assert reasons({"drop_errors": True}, bad, ("a", "stop", 1)) == ["error", None]


@pytest.mark.parametrize("text", ["{}", ' {"a": [1, null]} ', "1e400", "9" * 5000, '"x"'])
def test_text_that_is_json(text):
    assert is_json(text)


@pytest.mark.parametrize("text", ["", "{} {}", "NaN", "[Infinity]", "{'a': 1}", "[" * 100_000, "`{}`"])
def test_text_that_is_no_json(text):
    assert not is_json(text)


def test_an_expression_that_backtracks_elsewhere_is_linear_here():
    started_at = time.perf_counter()
    assert reasons({"regex": "^(a+)+$"}, ("a" * 50_000 + "b", "stop", 3)) == ["regex: not found"]
    assert time.perf_counter() - started_at < 10


@pytest.mark.parametrize("expression", ["(", "(?=a)", "(a)\\1", "((a{100}){100}){100}"])
def test_an_expression_that_is_not_re2_is_refused(expression):
    with pytest.raises(ValidationError, match="must be an RE2 expression"):
        RowFilters(regex=expression)


def test_bounds_must_not_cross():
    with pytest.raises(ValidationError, match="must have min_chars <= max_chars, got 5 and 4"):
        RowFilters(min_chars=5, max_chars=4)


def test_reasons_are_counted_by_filter():
    assert count_reasons(["min_tokens: 1 < 2", None, "min_tokens: 0 < 2", "error"]) == {
        "dropped": 3,
        "dropped_min_tokens": 2,
        "dropped_error": 1,
    }
