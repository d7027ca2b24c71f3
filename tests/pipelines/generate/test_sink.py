"""Unit files."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.generate.columns import ENGINE, SHARD, UNIT, TableLayout
from pipelines.generate.sink import SUMMARY, commit_unit, read_footer
from pipelines.storage import list_directory

LAYOUT = TableLayout(pa.schema([("note", pa.string())]), ("note",))
COUNTS = {"rows": 2, "errors": 0, "completion_tokens": 7}


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
    assert summary == {"shard": 3, "unit": 12, "rows": 2, "actor": "host:1", "counts": COUNTS}


def test_the_footer_tells_rows_and_counts_without_reading_rows(table, tmp_path):
    commit_unit(table, str(tmp_path), LAYOUT, "f00")
    assert read_footer(f"{tmp_path}/part-00003-00012.parquet") == {"rows": 2, "counts": COUNTS}
