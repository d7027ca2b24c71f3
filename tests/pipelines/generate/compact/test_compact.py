"""Compaction of finished runs."""

import json

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from orthrus_core.errors import ConfigError, OrthrusError
from pipelines.generate.compact import compact as module
from pipelines.generate.compact.compact import compact_files
from pipelines.generate.compact.source import open_source
from pipelines.storage import files as storage
from pipelines.storage.config import StorageConfig, use_storage
from tests.pipelines.generate.compact.finished_run import contents, finished_run, output_of

TINY = 100 / 2**20  # MiB: less than five rows have
NUMBERS = [*range(10), *range(15, 20)]


@pytest.fixture
def run(tmp_path):
    return finished_run(str(tmp_path / "out"))


def compact(ledger, **options):
    return compact_files(open_source(ledger.url), output_of(ledger, **options))


def numbers_of(directory, **options) -> list[int]:
    return ds.dataset(directory, **options).to_table().column("number").to_pylist()


def test_many_units_become_one_file_with_their_rows_in_order(run, tmp_path):
    manifest = compact(run)
    assert [(file["name"], file["rows"]) for file in manifest["files"]] == [("part-00000.parquet", 15)]
    assert numbers_of(tmp_path / "out/compacted") == NUMBERS
    whole, parts = (ds.dataset(tmp_path / "out" / name).to_table() for name in ("compacted", "data"))
    assert whole.schema.equals(parts.schema)
    assert whole.to_pylist() == parts.to_pylist()


def test_files_end_at_the_target_size_in_bytes(run, tmp_path):
    manifest = compact(run, file_mib=TINY)
    assert [file["rows"] for file in manifest["files"]] == [5, 5, 5]
    assert numbers_of(tmp_path / "out/compacted") == NUMBERS
    assert manifest["bytes"] == sum(
        (tmp_path / "out/compacted" / file["name"]).stat().st_size for file in manifest["files"]
    )


def test_a_large_file_has_row_groups_that_fit_in_memory(run, tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.generate.compact.partition.GROUP_BYTES", 100)
    compact(run, file_mib=1)
    metadata = pq.read_metadata(tmp_path / "out/compacted/part-00000.parquet")
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [5, 5, 5]


def test_rows_go_to_directories_by_value_and_come_back_whole(run, tmp_path):
    manifest = compact(run, partition_by="language")
    assert [(file["name"], file["rows"]) for file in manifest["files"]] == [
        ("language=__HIVE_DEFAULT_PARTITION__/part-00000.parquet", 4),
        ("language=de/part-00000.parquet", 6),
        ("language=en%2Fus%20%C3%BC/part-00000.parquet", 5),
    ]
    read = ds.dataset(tmp_path / "out/compacted", partitioning="hive").to_table()
    rows = sorted(zip(read.column("number").to_pylist(), read.column("language").to_pylist(), strict=True))
    assert rows == [(n, ["de", "en/us ü", None][n % 3]) for n in NUMBERS]
    german = pq.read_table(tmp_path / "out/compacted/language=de/part-00000.parquet", partitioning=None)
    assert german.column("number").to_pylist() == [0, 3, 6, 9, 15, 18]
    assert german.column_names == ["id", "../up", "number", "kind"]


def test_compression_is_that_of_the_output(run, tmp_path):
    output = output_of(run).model_copy(
        update={"compression": output_of(run).compression.model_copy(update={"codec": "snappy"})}
    )
    compact_files(open_source(run.url), output)
    column = pq.read_metadata(tmp_path / "out/compacted/part-00000.parquet").row_group(0).column(0)
    assert column.compression == "SNAPPY"


def test_a_second_time_nothing_is_written(run, tmp_path):
    first = compact(run)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out/compacted").iterdir()}
    assert compact(run) == json.loads(json.dumps(first))
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "out/compacted").iterdir()} == before


@pytest.mark.parametrize("fails_at", [0, 1, 2])
def test_one_that_was_killed_goes_on_to_the_same_files(run, tmp_path, monkeypatch, fails_at):
    compact(run, file_mib=TINY, path=str(tmp_path / "whole"))
    uploads = []

    def failing_upload(path, url):
        if len(uploads) == fails_at:
            raise KeyboardInterrupt
        uploads.append(url)
        storage.upload(path, url)

    monkeypatch.setattr("pipelines.generate.compact.partition.upload", failing_upload)
    with pytest.raises(KeyboardInterrupt):
        compact(run, file_mib=TINY)
    assert not (tmp_path / "out/compacted/_manifest.json").exists()
    monkeypatch.undo()
    compact(run, file_mib=TINY)
    found, whole = contents(tmp_path / "out/compacted"), contents(tmp_path / "whole")
    assert {n: c for n, c in found.items() if n != "_manifest.json"} == {
        n: c for n, c in whole.items() if n != "_manifest.json"
    }


def test_files_of_a_killed_one_with_other_options_are_cleared(run, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "put", lambda url, data: _put_all_but_the_manifest(url, data))
    with pytest.raises(KeyboardInterrupt):
        compact(run, file_mib=TINY)
    monkeypatch.undo()
    compact(run)
    assert sorted(contents(tmp_path / "out/compacted")) == [
        "_compacting.json",
        "_manifest.json",
        "part-00000.parquet",
    ]


def _put_all_but_the_manifest(url, data):
    if url.endswith("_manifest.json"):
        raise KeyboardInterrupt
    storage.put(url, data)


def test_a_lost_file_is_made_again(run, tmp_path):
    compact(run, file_mib=TINY)
    (tmp_path / "out/compacted/part-00001.parquet").unlink()
    compact(run, file_mib=TINY)
    assert numbers_of(tmp_path / "out/compacted") == NUMBERS


def test_other_options_or_a_repaired_run_are_refused(run):
    compact(run)
    with pytest.raises(ConfigError, match=r"compacted holds another compaction \(other options\); remove it"):
        compact(run, file_mib=1)
    run.write_manifest({**run.manifest(), "repaired": [{"units": 1}]})
    with pytest.raises(ConfigError, match=r"another compaction \(other version\)"):
        compact(run)


def test_a_place_that_is_in_use_is_refused_and_left_alone(run, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/part-00000.parquet").write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"other is not empty \(part-00000\.parquet\)"):
        compact(run, path=str(tmp_path / "other"))
    assert (tmp_path / "other/part-00000.parquet").read_bytes() == b"mine"
    with pytest.raises(ConfigError, match="must not lie in .*/data, which is the run's own"):
        compact(run, path=f"{run.data_url}/more")


@pytest.mark.parametrize(
    ("columns", "fault"),
    [
        ("lang", "no column lang; there are id, language, ../up, number, kind"),
        (["language", "id"], r"language, id has more than 10 values"),
        ("../up", r"\.\./up is no name for a directory"),
    ],
)
def test_columns_that_make_no_directories_are_refused(run, monkeypatch, columns, fault):
    monkeypatch.setattr("pipelines.generate.compact.partition.MOST_PARTITIONS", 10)
    with pytest.raises(ConfigError, match=f"output.compact.partition_by: {fault}"):
        compact(run, partition_by=columns)


def test_rows_past_what_may_wait_are_written_early_and_in_order(run, tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.generate.compact.partition.WAITING_BYTES", 100)
    compact(run, partition_by="language")
    german = pq.ParquetFile(tmp_path / "out/compacted/language=de/part-00000.parquet")
    assert german.num_row_groups > 1
    assert german.read().column("number").to_pylist() == [0, 3, 6, 9, 15, 18]


def test_a_run_that_is_not_finished_or_has_changed_is_refused(run, tmp_path):
    (tmp_path / "out/data/part-00000-00001.parquet").unlink()
    with pytest.raises(ConfigError, match=r"has changed since: data/part-00000-00001\.parquet is gone"):
        open_source(run.url)
    run.reopen()
    with pytest.raises(ConfigError, match="holds no finished run"):
        open_source(run.url)


def test_a_run_that_is_repaired_meanwhile_is_not_called_compacted(run, tmp_path):
    source = open_source(run.url)
    run.write_manifest({**run.manifest(), "repaired": [{"units": 1}]})
    with pytest.raises(OrthrusError, match="has changed while it was read"):
        compact_files(source, output_of(run))
    assert not (tmp_path / "out/compacted/_manifest.json").exists()


def test_a_damaged_unit_ends_it(run, tmp_path):
    source = open_source(run.url)
    units = tmp_path / "out/data"
    (units / "part-00000-00000.parquet").write_bytes((units / "part-00000-00001.parquet").read_bytes())
    with pytest.raises(
        OrthrusError, match=r"part-00000-00000\.parquet says shard, unit and rows \[0, 1, 5\]"
    ):
        compact_files(source, output_of(run))


def test_a_bucket_takes_and_gives_them_as_a_disk_does(s3, tmp_path):
    use_storage(StorageConfig(**s3.storage()))
    bucket = s3.new_bucket()
    ledger = finished_run(f"{bucket}/out")
    for _ in range(2):
        manifest = compact(ledger, file_mib=TINY, partition_by="language")
    names = [file["name"] for file in manifest["files"]]
    top = f"{bucket.removeprefix('s3://')}/out/compacted"
    assert sorted(s3.client().find(top)) == [
        f"{top}/{name}" for name in ("_compacting.json", "_manifest.json", *names)
    ]
    local = finished_run(str(tmp_path / "out"))
    compact(local, file_mib=TINY, partition_by="language")
    for name in names:
        assert (
            storage.read_bytes(f"{bucket}/out/compacted/{name}")
            == (tmp_path / "out/compacted" / name).read_bytes()
        )
    assert len([one for one in s3.requests() if one.startswith("PUT") and "part-00000.parquet" in one]) == 3
