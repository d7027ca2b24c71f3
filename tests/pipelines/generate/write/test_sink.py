"""Unit files."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orthrus_core.errors import ConfigError
from pipelines.generate.config.compact import Compression
from pipelines.generate.config.output import RowFilters
from pipelines.generate.write.id_hashes import hash_ids
from pipelines.generate.write.sink import SUMMARY, RowPolicy, commit_unit
from pipelines.generate.write.unit_file import read_footer
from pipelines.read.columns import ENGINE, SHARD, UNIT, TableLayout
from pipelines.storage.files import list_directory

LAYOUT = TableLayout(pa.schema([("note", pa.string())]), ("note",))
COUNTS = {"rows_in": 2, "rows": 2, "errors": 0, "completion_tokens": 7}
WRITTEN = COUNTS | {"dropped": 0}


@pytest.fixture
def table():
    """A table as the actor makes it."""
    columns = {field.name: pa.nulls(2, field.type) for field in LAYOUT.output}
    columns |= {"id": pa.array(["a", "b"]), "completion": pa.array(["x", "y"])}
    columns |= {SHARD: pa.array([3, 3], pa.int32()), UNIT: pa.array([12, 12], pa.int32())}
    columns[ENGINE] = pa.array([json.dumps({"actor": "host:1", "counts": COUNTS}), None])
    return pa.table(columns)


def test_the_file_is_named_by_shard_and_unit_and_holds_the_output_columns(table, tmp_path):
    commit_unit(table, str(tmp_path), LAYOUT, "f00")
    assert list(list_directory(str(tmp_path))) == ["part-00003-00012.parquet"]
    written = pq.read_table(tmp_path / "part-00003-00012.parquet")
    assert written.schema.equals(LAYOUT.output)
    assert written.column("completion").to_pylist() == ["x", "y"]


def test_writing_again_replaces_the_file(table, tmp_path):
    for _ in range(2):
        commit_unit(table, str(tmp_path), LAYOUT, "f00")
    assert len(list_directory(str(tmp_path))) == 1


def test_the_summary_names_unit_and_counts(table, tmp_path):
    summary = json.loads(commit_unit(table, str(tmp_path), LAYOUT, "f00").column(SUMMARY)[0].as_py())
    assert (
        summary.items()
        >= {
            "shard": 3,
            "unit": 12,
            "rows": 2,
            "rows_in": 2,
            "actor": "host:1",
            "counts": WRITTEN,
        }.items()
    )


def test_the_footer_tells_rows_and_counts_without_reading_rows(table, tmp_path):
    commit_unit(table, str(tmp_path), LAYOUT, "f00")
    footer = read_footer(f"{tmp_path}/part-00003-00012.parquet")
    assert (footer["rows"], footer["counts"]) == (2, WRITTEN)
    assert footer["lengths"]["8"]["rows"] == 2


NAME = "part-00003-00012.parquet"


def commit_filtered(table, tmp_path, **filters):
    policy = RowPolicy(f"{tmp_path}/dropped", RowFilters(**filters))
    commit_unit(table, f"{tmp_path}/data", LAYOUT, "f00", policy=policy)
    return pq.read_table(tmp_path / "data" / NAME)


def test_rows_that_fail_a_filter_go_to_the_side_file_with_their_reason(table, tmp_path):
    kept = commit_filtered(table, tmp_path, regex="y")
    dropped = pq.read_table(tmp_path / "dropped" / NAME)
    assert kept.column("id").to_pylist() == ["b"]
    assert dropped.select(["id", "completion", "dropped_reason"]).to_pylist() == [
        {"id": "a", "completion": "x", "dropped_reason": "regex: not found"}
    ]
    assert dropped.schema.equals(LAYOUT.dropped)
    counts = read_footer(f"{tmp_path}/data/{NAME}")["counts"]
    expected = {"rows_in": 2, "rows": 1, "dropped": 1, "dropped_regex": 1}
    assert {name: counts[name] for name in expected} == expected


def test_a_unit_whose_rows_all_fall_writes_an_empty_file(table, tmp_path):
    kept = commit_filtered(table, tmp_path, regex="z")
    assert kept.num_rows == 0
    assert kept.schema.equals(LAYOUT.output)
    assert pq.read_table(tmp_path / "dropped" / NAME).num_rows == 2


def test_without_dropped_rows_there_is_no_side_file(table, tmp_path):
    assert commit_filtered(table, tmp_path, regex="[xy]").num_rows == 2
    assert list_directory(f"{tmp_path}/dropped") == {}


def test_the_side_file_is_written_before_the_commit(table, tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.generate.write.sink.write_unit_file", lambda url, *_: written.append(url))
    written: list[str] = []
    policy = RowPolicy(f"{tmp_path}/dropped", RowFilters(regex="y"))
    commit_unit(table, f"{tmp_path}/data", LAYOUT, "f00", policy=policy)
    assert written == [f"{tmp_path}/dropped/{NAME}", f"{tmp_path}/data/{NAME}"]


def test_a_node_that_does_not_see_the_drivers_files_writes_nothing(table, tmp_path):
    policy = RowPolicy("", RowFilters(), driver_file=str(tmp_path / "_run/manifest.json"))
    with pytest.raises(ConfigError, match=r"output\.path: node \S+ does not see .*/_run/manifest\.json"):
        commit_unit(table, str(tmp_path / "data"), LAYOUT, "f00", policy=policy)
    assert not (tmp_path / "data").exists()


def test_a_node_that_sees_the_drivers_files_writes(table, tmp_path):
    (tmp_path / "_run").mkdir()
    (tmp_path / "_run/manifest.json").touch()
    policy = RowPolicy("", RowFilters(), driver_file=str(tmp_path / "_run/manifest.json"))
    commit_unit(table, str(tmp_path / "data"), LAYOUT, "f00", policy=policy)
    assert len(list_directory(str(tmp_path / "data"))) == 1


def test_ids_are_hashed_once_for_each_input_row(table, tmp_path):
    columns = [table.column(name) for name in table.column_names]
    columns[table.column_names.index("sample")] = pa.array([0, 1], pa.int32())
    policy = RowPolicy("", RowFilters(), id_share=1.0)
    commit_unit(pa.table(columns, table.column_names), str(tmp_path), LAYOUT, "f00", policy=policy)
    assert read_footer(f"{tmp_path}/{NAME}")["ids"] == hash_ids(["a"], 1.0)


def test_files_are_compressed_as_the_policy_says(table, tmp_path):
    policy = RowPolicy("", RowFilters(), compression=Compression(codec="snappy"))
    commit_unit(table, str(tmp_path), LAYOUT, "f00", policy=policy)
    assert pq.read_metadata(tmp_path / NAME).row_group(0).column(0).compression == "SNAPPY"
