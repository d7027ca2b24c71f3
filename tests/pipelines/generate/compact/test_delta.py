"""Appending to Delta tables."""

import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from orthrus_core.errors import ConfigError, OrthrusError
from pipelines.generate.compact.delta import append_to_delta
from pipelines.generate.compact.source import open_source
from pipelines.storage.config import StorageConfig, use_storage
from tests.pipelines.generate.compact.finished_run import finished_run, output_of

NUMBERS = [*range(10), *range(15, 20)]


def append(ledger, url, storage=None, **options) -> bool:
    output = output_of(ledger, delta=str(url), **options)
    return append_to_delta(open_source(ledger.url), output, storage or StorageConfig())


def rows_of(url, **options) -> list[dict]:
    deltalake = pytest.importorskip("deltalake")
    rows = deltalake.DeltaTable(str(url), **options).to_pyarrow_table().to_pylist()
    return sorted(rows, key=lambda row: row["number"])


def test_a_run_is_appended_once(tmp_path):
    pytest.importorskip("deltalake")
    ledger = finished_run(str(tmp_path / "out"))
    assert [append(ledger, tmp_path / "table") for _ in range(2)] == [True, False]
    rows = rows_of(tmp_path / "table")
    assert [row["number"] for row in rows] == NUMBERS
    assert rows[1] == {"id": "r1", "language": "en/us ü", "../up": None, "number": 1, "kind": "kind 1"}


def test_another_run_is_appended_to_the_same_table(tmp_path):
    pytest.importorskip("deltalake")
    append(finished_run(str(tmp_path / "out")), tmp_path / "table", partition_by="language")
    more = finished_run(str(tmp_path / "more"), num_units=2)
    more.write_manifest({**more.manifest(), "fingerprint": "f01"})
    assert append(more, tmp_path / "table", partition_by="language")
    assert [row["number"] for row in rows_of(tmp_path / "table")] == sorted([*NUMBERS, *range(10)])


@pytest.mark.parametrize("exists", [False, True])
def test_of_two_at_once_one_is_refused(tmp_path, exists):
    pytest.importorskip("deltalake")
    if exists:
        append(finished_run(str(tmp_path / "first"), num_units=1), tmp_path / "table")
    ledger = finished_run(str(tmp_path / "out"))
    source = open_source(ledger.url)

    def tables_while_another_appends():
        with ThreadPoolExecutor(1) as pool:  # deltalake's own thread is busy with the first
            assert pool.submit(append, ledger, tmp_path / "table").result()
        yield from source.tables()

    racing = SimpleNamespace(**vars(source), tables=tables_while_another_appends)
    with pytest.raises(OrthrusError, match=r"output\.compact\.delta: "):
        append_to_delta(racing, output_of(ledger, delta=str(tmp_path / "table")), StorageConfig())
    expected = [*range(5), *NUMBERS] if exists else NUMBERS
    assert [row["number"] for row in rows_of(tmp_path / "table")] == sorted(expected)


def test_a_table_of_other_columns_refuses_the_rows(tmp_path):
    deltalake = pytest.importorskip("deltalake")
    import pyarrow as pa

    deltalake.write_deltalake(str(tmp_path / "table"), pa.table({"other": [1]}))
    with pytest.raises(OrthrusError, match=r"output\.compact\.delta: .*table: "):
        append(finished_run(str(tmp_path / "out")), tmp_path / "table")


def test_a_table_in_a_bucket_takes_them(s3):
    pytest.importorskip("deltalake")
    storage = StorageConfig(**s3.storage())
    use_storage(storage)
    bucket = s3.new_bucket()
    ledger = finished_run(f"{bucket}/out")
    assert [append(ledger, f"{bucket}/table", storage) for _ in range(2)] == [True, False]
    keys = {
        "AWS_ENDPOINT_URL": s3.endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": s3.storage()["key"],
        "AWS_SECRET_ACCESS_KEY": s3.storage()["secret"],
    }
    assert [row["number"] for row in rows_of(f"{bucket}/table", storage_options=keys)] == NUMBERS


def test_without_the_package_it_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "deltalake", None)
    with pytest.raises(ConfigError, match="needs the package deltalake: pip install deltalake"):
        append(finished_run(str(tmp_path / "out")), tmp_path / "table")
