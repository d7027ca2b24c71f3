"""What a prompt is made of is its row's own, whatever other rows and files hold."""

import datetime
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.read.choose_columns import choose_layout
from pipelines.read.columns import ROW_ERROR
from pipelines.read.own_rows import own_rows
from pipelines.read.source import column_types, read_unit
from tests.pipelines.read.plans import planned

CALLS = [{"city": "Oslo"}, {"a": 1, "b": {"deep": None}}, "text", {}]


def message(arguments) -> dict:
    call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


def read(folder, names, *, needed=None, **options) -> tuple[list[dict], list[str | None]]:
    """Rows and errors of all files of a folder."""
    plan = planned(folder, unit_rows=3, needed=needed or dict.fromkeys(names, "any"))
    types = column_types(plan, choose_layout(plan.schema, needed=names, carry=None, id_column=None))
    rows, errors = [], []
    for unit in plan.units:
        table = read_unit(plan.shards_of(unit), unit, types)
        faults = table.column(ROW_ERROR).to_pylist()
        rows += own_rows(table, names, faults, **options)
        errors += faults
    return rows, errors


def write_lines(path, *rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_json_row_is_what_its_line_says(tmp_path):
    rows = [{"m": [message(call)], "v": v} for call, v in zip(CALLS, [1, 2.5, 2**70, {"x": []}], strict=True)]
    write_lines(tmp_path / "a.jsonl", *rows[:1])
    write_lines(tmp_path / "b.jsonl", *rows[1:])
    found, errors = read(tmp_path, ["m", "v"], needed={"m": "messages"}, structured=["m"])
    assert json.dumps(found) == json.dumps(rows)
    assert errors == [None] * 4


def test_what_a_line_does_not_say_is_null(tmp_path):
    write_lines(tmp_path / "a.jsonl", {"q": "x", "r": 1}, {"q": "y"})
    assert read(tmp_path, ["q", "r"])[0] == [{"q": "x", "r": 1}, {"q": "y", "r": None}]


@pytest.mark.parametrize("bad", [5, [1], {"a": 1}, True])
def test_a_prompt_that_is_no_text_is_one_error_row_wherever_it_stands(tmp_path, bad):
    write_lines(tmp_path / "a.jsonl", {"q": bad}, {"q": "x"}, {"q": "y"})
    rows, errors = read(tmp_path, ["q"], needed={"q": "text"})
    assert [row["q"] for row in rows][1:] == ["x", "y"]
    assert errors == [f"column q is string, got {bad!r}", None, None]


def test_messages_of_parquet_have_no_nulls_at_any_depth(tmp_path):
    rows = [{"m": [message(call)]} for call in (CALLS[0], {"a": 1, "b": {"deep": [{"x": 1}, {"y": 2}]}})]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert pq.read_table(tmp_path / "a.parquet").to_pylist() != rows  # for Arrow pads them
    assert read(tmp_path, ["m"], structured=["m"])[0] == rows


def test_values_of_a_parquet_file_do_not_depend_on_the_types_of_another(tmp_path):
    pq.write_table(pa.table({"v": [1], "s": [{"a": 1}], "d": ["x"]}), tmp_path / "a.parquet")
    pq.write_table(
        pa.table({"v": [0.5], "s": [{"b": 2}], "d": pa.array(["y"]).dictionary_encode()}),
        tmp_path / "b.parquet",
    )
    rows, _ = read(tmp_path, ["v", "s", "d"])
    assert repr(rows) == repr([{"v": 1, "s": {"a": 1}, "d": "x"}, {"v": 0.5, "s": {"b": 2}, "d": "y"}])


def test_a_value_that_python_has_not_spoils_only_its_row(tmp_path):
    times = pa.array([0, 2**62], pa.timestamp("s"))
    pq.write_table(pa.table({"t": times.cast(pa.int64()).cast(pa.timestamp("ms"))}), tmp_path / "a.parquet")
    rows, errors = read(tmp_path, ["t"])
    assert [row["t"] for row in rows] == [datetime.datetime(1970, 1, 1), None]
    assert errors[0] is None
    assert errors[1].startswith("column t cannot be read: ")
