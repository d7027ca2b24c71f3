"""Hooks on rows."""

import pyarrow as pa
import pytest

from pipelines.generate.hooks.call import made_columns
from pipelines.generate.hooks.hook import load_hook
from tests.pipelines.generate.hooks import user_functions

MADE = pa.schema([("prompt", pa.string()), ("twice", pa.int64())])


def called(function: str, rows, errors=None, columns=MADE):
    """(columns as lists, errors) of a function of user_functions."""
    hook = load_hook("input.map", f"tests.pipelines.generate.hooks.user_functions:{function}", columns)
    errors = errors or [None] * len(rows)
    made = made_columns(hook, rows, errors)
    return {name: column.to_pylist() for name, column in made.items()}, errors


def test_every_row_gets_what_came_back_for_it():
    made, errors = called("prepare", [{"a": 1}, {"a": 2}])
    assert made == {"prompt": ["Add 1 and 1.", "Add 2 and 1."], "twice": [2, 4]}
    assert errors == [None, None]


def test_a_row_that_fails_is_an_error_and_its_neighbours_are_not():
    rows = [{"a": n} for n in range(7)]
    rows[4] = {"a": None}
    made, errors = called("prepare", rows)
    assert made["twice"] == [0, 2, 4, 6, None, 10, 12]
    assert [place for place, error in enumerate(errors) if error] == [4]
    assert errors[4].startswith("input.map: TypeError: unsupported operand")


def test_rows_with_errors_are_not_shown():
    made, errors = called("prepare", [{"a": "x"}, {"a": 1}], ["damaged", None])
    assert (made["twice"], errors) == ([None, 2], ["damaged", None])


def test_a_lost_row_is_an_error_of_its_own():
    made, errors = called("drops_first", [{"prompt": "p", "twice": 1}] * 2)
    assert made["prompt"] == [None, None]
    assert errors == ["input.map: ValueError: 0 rows came back for 1"] * 2


def test_what_a_function_does_to_its_rows_before_it_fails_is_not_seen():
    columns = pa.schema([("a", pa.int64())])
    assert called("spoils_its_rows", [{"a": 1}, {"a": 5}, {"a": 7}], columns=columns)[0] == {"a": [2, 6, 8]}


def test_an_exception_in_the_place_of_a_row_is_its_error():
    columns = pa.schema([("length", pa.int64()), ("good", pa.bool_())])
    rows = [{"id": "x", "completion": "abcd"}, {"id": "y", "completion": ""}]
    made, errors = called("score", rows, columns=columns)
    assert made == {"length": [4, None], "good": [True, None]}
    assert errors == [None, "input.map: ValueError: too short: y"]


@pytest.mark.parametrize(
    ("function", "columns", "fault"),
    [
        ("prepare", [("other", pa.string())], "input.map: the row came back without other"),
        ("prepare", [("prompt", pa.int64())], "column prompt is int64, got 'Add 1 and 1.'"),
        ("returns_text", [("prompt", pa.string())], "input.map: a row must come back as a dict, got str"),
    ],
)
def test_rows_that_are_not_as_declared_are_errors(function, columns, fault):
    assert called(function, [{"a": 1}], columns=pa.schema(columns))[1] == [fault]


def test_a_process_loads_a_function_once():
    name = "tests.pipelines.generate.hooks.user_functions:prepare"
    first, second = (load_hook("input.map", name, MADE) for _ in range(2))
    assert first.function is second.function
    assert first.function is not user_functions.prepare  # by value: workers need not find the module
