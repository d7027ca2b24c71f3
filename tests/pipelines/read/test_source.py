"""Reading units."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.read.columns import FILE, LINE, ROW, ROW_ERROR, SHARD, UNIT, TableLayout
from pipelines.read.source import UnitSource
from tests.pipelines.read.plans import planned, read_all

TABLE = pa.table(
    {
        "q": [f"question {i}" for i in range(23)],
        "n": pa.array(range(23), pa.int16()),
        "tags": [[{"k": str(i)}] for i in range(23)],
    }
)


@pytest.fixture(params=["parquet", "small row groups", "jsonl", "json lines", "json array", "json.zst"])
def path(request, tmp_path) -> Path:
    if request.param == "json lines":
        path = tmp_path / "a.json"
        path.write_text("\n".join(json.dumps(row) for row in TABLE.to_pylist()))
        return path
    if request.param.startswith("json "):
        path = tmp_path / "a.json"
        path.write_text("\ufeff" + json.dumps(TABLE.to_pylist(), indent=1))
        return path
    if request.param == "json.zst":
        path = tmp_path / "a.json.zst"
        path.write_bytes(pa.compress(json.dumps(TABLE.to_pylist()).encode(), "zstd", asbytes=True))
        return path
    if request.param == "jsonl":
        path = tmp_path / "a.jsonl"
        path.write_text("\n\n".join(json.dumps(row) for row in TABLE.to_pylist()))
        return path
    path = tmp_path / "a.parquet"
    pq.write_table(TABLE, path, row_group_size=4 if "small" in request.param else 100)
    return path


@pytest.mark.parametrize("unit_rows", [1, 5, 8, 100])
def test_units_together_hold_every_row_once_in_order(path, unit_rows):
    tables = read_all(planned(path, unit_rows=unit_rows), ["q", "n", "tags"])
    joined = pa.concat_tables(tables)
    assert joined.select(["q", "n", "tags"]).to_pylist() == TABLE.to_pylist()
    assert joined.column(ROW).to_pylist() == list(range(23))
    assert joined.column(ROW_ERROR).null_count == 23


def test_every_row_knows_its_shard_and_unit(path):
    last = read_all(planned(path, unit_rows=5), ["q"])[-1]
    assert set(last.column(SHARD).to_pylist()) == {0}
    assert len(set(last.column(UNIT).to_pylist())) == 1


def test_only_the_columns_asked_for_are_read(path):
    names = read_all(planned(path, unit_rows=100), ["n"])[0].column_names
    assert [name for name in names if name != LINE] == ["n", SHARD, UNIT, FILE, ROW, ROW_ERROR]


def test_no_column_at_all_still_gives_the_rows(path):
    assert sum(table.num_rows for table in read_all(planned(path, unit_rows=5), [])) == 23


def test_parquet_types_are_kept(tmp_path):
    pq.write_table(TABLE, tmp_path / "a.parquet")
    [table] = read_all(planned(tmp_path, unit_rows=100), TABLE.column_names)
    assert table.schema.field("n").type == pa.int16()


def test_a_column_that_one_shard_lacks_is_null_there(tmp_path):
    pq.write_table(pa.table({"q": ["a"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"q": ["b"], "n": pa.array([1], pa.int32())}), tmp_path / "b.parquet")
    first, second = read_all(planned(tmp_path), ["q", "n"])
    assert first.schema == second.schema
    assert (first.column("n").to_pylist(), second.column("n").to_pylist()) == ([None], [1])


def test_bad_jsonl_rows_carry_their_reason_and_the_rest_is_kept(tmp_path):
    lines = ['{"q": "good", "n": 1}', "{broken", '{"q": 5, "n": 2}', "[1]", '{"q": "\\ud800", "n": 3}', "{}"]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    [table] = read_all(planned(tmp_path), ["q", "n"])
    errors = table.column(ROW_ERROR).to_pylist()
    assert table.column("q").to_pylist() == ["good", None, None, None, None, None]
    assert table.column("n").to_pylist() == [1, None, 2, None, None, None]
    assert errors[0] is errors[5] is None
    assert errors[1].startswith("line is not json: ")
    assert errors[2] == "column q is string, got 5"
    assert errors[3] == "line is a json list, not an object"
    assert errors[4] == "line has text that cannot be encoded as UTF-8"


def test_all_rows_of_a_shard_that_changed_after_planning_say_so(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"q": "a"}\n{"q": "b"}\n')
    plan = planned(path)
    path.write_text('{"q": "a"}\n')
    [table] = read_all(plan, ["q"])
    errors = table.column(ROW_ERROR).to_pylist()
    assert len(errors) == 2
    assert all(
        error.startswith(f"input was overwritten: {path}, unit 0 (rows 0 to 1): has") for error in errors
    )


def test_every_unit_is_one_read_task_that_gives_one_block(path):
    plan = planned(path, unit_rows=5)
    tasks = UnitSource(plan, plan.units[1:], TableLayout(pa.schema([]), ("q",))).get_read_tasks(2)
    assert [len(list(task())) for task in tasks] == [1] * (len(plan.units) - 1)
    assert [task.metadata.num_rows for task in tasks] == [unit.num_rows for unit in plan.units[1:]]
