"""Small files that make one unit."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.read.columns import FILE, ROW, ROW_ERROR, SHARD, UNIT
from pipelines.read.own_rows import own_rows
from pipelines.read.units import Plan
from tests.pipelines.read.plans import planned, read_all


def write(path, rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.table(rows), path)
    else:
        lists = rows.values()
        lines = [dict(zip(rows, row, strict=True)) for row in zip(*lists, strict=True)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def units(plan) -> list[tuple[int, int, int]]:
    return [(unit.shard, unit.num_shards, unit.num_rows) for unit in plan.units]


def texts(name, count) -> dict:
    return {"q": pa.array([f"{name}{i}" for i in range(count)], pa.string())}


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_small_files_fill_units_and_keep_their_order(tmp_path, ending):
    counts = [1, 2, 0, 1, 2, 9, 3, 3]  # 0 rows: no part of the sum; 9: cut on its own
    for number, count in enumerate(counts):
        rows = {"q": [f"{number}.{i}" for i in range(count)]}
        write(
            tmp_path / f"{number}.{ending}",
            rows if ending == "jsonl" else {"q": pa.array(rows["q"], pa.string())},
        )
    plan = planned(tmp_path, unit_rows=4, pack=True)
    pieces = [(5, 1, 3), (5, 1, 3), (5, 1, 3)] if ending == "parquet" else [(5, 1, 4), (5, 1, 4), (5, 1, 1)]
    assert units(plan) == [(0, 4, 4), (4, 1, 2), *pieces, (6, 1, 3), (7, 1, 3)]
    found = pa.concat_tables(read_all(plan, ["q"]))
    assert found.column("q").to_pylist() == [
        f"{n}.{i}" for n, count in enumerate(counts) for i in range(count)
    ]
    assert [
        f"{n}.{i}" for n, i in zip(found.column(FILE).to_pylist(), found.column(ROW).to_pylist(), strict=True)
    ] == (found.column("q").to_pylist())


def test_every_row_of_a_unit_has_its_one_key(tmp_path):
    for number in range(3):
        write(tmp_path / f"{number}.parquet", texts(number, 1))
    [table] = read_all(planned(tmp_path, unit_rows=4, pack=True), ["q"])
    assert [set(table.column(name).to_pylist()) for name in (SHARD, UNIT)] == [{0}, {0}]


def test_files_with_other_columns_are_units_of_their_own(tmp_path):
    for number, kind in enumerate((pa.int32(), pa.int32(), pa.float64())):
        write(tmp_path / f"{number}.parquet", {**texts(number, 1), "n": pa.array([1], kind)})
    plan = planned(tmp_path, unit_rows=4, pack=True)
    assert units(plan) == [(0, 2, 2), (2, 1, 1)]
    rows = [row for table in read_all(plan, ["n"]) for row in own_rows(table, ["n"], [None] * table.num_rows)]
    assert [repr(row["n"]) for row in rows] == ["1", "1", "1.0"]  # as each file says it


def test_partitions_of_packed_files_are_their_own(tmp_path):
    for lang in ("de", "en"):
        write(tmp_path / f"lang={lang}" / "a.parquet", texts(lang, 1))
    [table] = read_all(planned(tmp_path, unit_rows=4, pack=True), ["q", "lang"])
    assert table.select(["q", "lang"]).to_pylist() == [{"q": "de0", "lang": "de"}, {"q": "en0", "lang": "en"}]


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_a_file_that_is_gone_costs_its_own_rows(tmp_path, ending):
    for number in range(3):
        write(
            tmp_path / f"{number}.{ending}",
            texts(number, 1) if ending == "parquet" else {"q": [f"{number}0"]},
        )
    plan = planned(tmp_path, unit_rows=4, pack=True)
    (tmp_path / f"1.{ending}").unlink()
    [table] = read_all(plan, ["q"])
    assert table.column("q").to_pylist() == ["00", None, "20"]
    assert [error is None for error in table.column(ROW_ERROR).to_pylist()] == [True, False, True]


def test_a_plan_that_is_stored_keeps_its_units(tmp_path):
    for number in range(3):
        write(tmp_path / f"{number}.parquet", texts(number, 1))
    plan = planned(tmp_path, unit_rows=4, pack=True)
    assert Plan.from_json(plan.to_json()) == plan
