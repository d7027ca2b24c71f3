"""Columns that the path of a file says."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.read.own_rows import own_rows
from pipelines.read.shard import path_columns
from pipelines.read.units import Plan
from tests.pipelines.read.plans import planned, read_all


def rows_of(plan: Plan, names, *, own=False) -> list[dict]:
    tables = read_all(plan, names)
    if own:
        return [row for table in tables for row in own_rows(table, names, [None] * table.num_rows)]
    return [row for table in tables for row in table.select(names).to_pylist()]


def write(path, rows) -> None:
    path.parent.mkdir(parents=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("\n".join(json.dumps(row) for row in rows))


@pytest.mark.parametrize(
    ("url", "columns"),
    [
        ("data/lang=de/day=2024-01-02/part=0.parquet", {"lang": "de", "day": "2024-01-02"}),
        ("s3://b/lang=de%20at/x.parquet", {"lang": "de at"}),
        ("a/k=__HIVE_DEFAULT_PARTITION__/x", {"k": None}),
        ("a/k=/x", {"k": ""}),
        ("a/=1/b=c=d/x", {"b": "c=d"}),
        ("a/b/c.parquet", {}),
    ],
)
def test_folders_with_an_equals_sign_are_columns(url, columns):
    assert path_columns(url) == columns


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
@pytest.mark.parametrize("own", [False, True])
def test_rows_have_the_columns_of_their_path(tmp_path, ending, own):
    for lang in ("de", "en"):
        write(tmp_path / f"lang={lang}" / f"a.{ending}", [{"q": f"{lang}{i}"} for i in range(2)])
    plan = planned(tmp_path)
    assert plan.schema.field("lang").type == pa.string()
    assert rows_of(plan, ["q", "lang"], own=own) == [
        {"q": f"{lang}{i}", "lang": lang} for lang in ("de", "en") for i in range(2)
    ]


def test_arrays_have_them_too(tmp_path):
    write(tmp_path / "lang=de" / "a.json", [{"q": "x"}])
    assert rows_of(planned(tmp_path / "lang=de" / "a.json"), ["q", "lang"]) == [{"q": "x", "lang": "de"}]


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
@pytest.mark.parametrize("own", [False, True])
def test_a_column_of_the_file_goes_before_its_path(tmp_path, ending, own):
    write(tmp_path / "lang=de" / f"a.{ending}", [{"q": "x", "lang": "fr"}])
    assert rows_of(planned(tmp_path), ["lang"], own=own) == [{"lang": "fr"}]


def test_a_prompt_may_come_from_the_path(tmp_path):
    write(tmp_path / "q=what" / "a.parquet", [{"n": 1}])
    assert rows_of(planned(tmp_path), ["q", "n"]) == [{"q": "what", "n": 1}]


def test_a_plan_that_is_stored_keeps_them(tmp_path):
    write(tmp_path / "lang=de" / "a.parquet", [{"q": "x"}])
    plan = planned(tmp_path)
    assert Plan.from_json(plan.to_json()) == plan
    assert rows_of(Plan.from_json(plan.to_json()), ["lang"]) == [{"lang": "de"}]


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_paths_say_nothing_where_that_is_not_wanted(tmp_path, ending):
    write(tmp_path / "lang=de" / f"a.{ending}", [{"q": "x"}])
    assert "lang" not in planned(tmp_path, has_partitions=False).schema.names
