"""Shards that are damaged: seen before anything starts, or only while reading."""

import bz2
import gzip
import io
import json
import logging
import lzma
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orthrus_core.errors import ConfigError
from pipelines.generate.job.preview import preview
from pipelines.generate.write.sink import SUMMARY, commit_unit
from pipelines.read.columns import ENGINE, ROW_ERROR, SHARD, UNIT, TableLayout
from pipelines.read.units import Plan
from pipelines.storage.files import list_directory
from tests.pipelines.conftest import job_of
from tests.pipelines.read.plans import planned, read_all


def write(path: Path, rows: int) -> Path:
    """Rows of text that does not compress, in row groups of 10."""
    texts = [f"{n} " + "".join(chr(97 + (n * n + 7 * k) % 26) for k in range(200)) for n in range(rows)]
    pq.write_table(pa.table({"q": texts, "n": range(rows)}), path, row_group_size=10, compression="zstd")
    return path


def damage_pages(path: Path, group: int) -> None:
    """Overwrite what the first column of a row group holds; the footer stays."""
    column = pq.read_metadata(path).row_group(group).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(content)


@pytest.fixture
def mixed(tmp_path) -> list[Path]:
    """A good shard, one without the column, one whose footer is garbage, a good one."""
    good, last = write(tmp_path / "a.parquet", 15), write(tmp_path / "d.parquet", 5)
    other, broken = tmp_path / "b.parquet", tmp_path / "c.parquet"
    pq.write_table(pa.table({"p": ["x"]}), other)
    content = bytearray(good.read_bytes())
    content[-40:-8] = b"\xff" * 32
    broken.write_bytes(content)
    return [good, other, broken, last]


def test_skipped_shards_keep_their_numbers_and_have_no_units(mixed, caplog):
    with caplog.at_level(logging.WARNING):
        plan = planned(*mixed, on_bad_shard="skip")
    assert [unit.file_name for unit in plan.units] == [
        "part-00000-00000.parquet",
        "part-00000-00001.parquet",
        "part-00003-00000.parquet",
    ]
    assert [entry["url"] for entry in plan.skipped_inputs] == [str(mixed[1]), str(mixed[2])]
    assert plan.skipped_inputs[0]["reason"] == "no column q (it has p)"
    assert plan.skipped_inputs[1]["reason"].startswith("unreadable: ")
    assert f"bad_shard_skipped {mixed[1]}: no column q" in caplog.text


def test_a_plan_with_skipped_shards_survives_storing(mixed):
    plan = planned(*mixed, on_bad_shard="skip")
    assert Plan.from_json(plan.to_json()) == plan


def test_bad_shards_fail_by_default(mixed):
    with pytest.raises(ConfigError, match="2 bad input file"):
        planned(*mixed)


def test_only_the_unit_with_damaged_pages_has_errors(tmp_path):
    path = write(tmp_path / "a.parquet", 30)
    damage_pages(path, 1)
    first, second, third = (
        table.column(ROW_ERROR).to_pylist() for table in read_all(planned(path), ["q", "n"])
    )
    assert first == third == [None] * 10
    [text] = set(second)
    assert text.startswith(f"input is damaged: {path}, unit 1 (rows 10 to 19): unreadable: ")


def test_a_store_that_fails_is_no_damage(tmp_path, monkeypatch):
    path = write(tmp_path / "a.parquet", 10)
    plan = planned(path)

    class Failing:
        def __init__(self, handle):
            self._handle = handle

        def read(self, size=-1):
            raise OSError("connection reset")

        def __getattr__(self, name):
            return getattr(self._handle, name)

    monkeypatch.setattr(
        "pipelines.read.input_file.open_file",
        lambda *args, **more: Failing(io.BytesIO(path.read_bytes())),
    )
    with pytest.raises(OSError, match="connection reset"):
        read_all(plan, ["q", "n"])


PACKERS = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "ZST": lambda content: pa.Codec("zstd").compress(content, asbytes=True),
}


@pytest.mark.parametrize("ending", PACKERS)
def test_compressed_lines_are_read_unit_by_unit(tmp_path, ending):
    rows = [{"q": f"q{n}", "n": n} for n in range(25)]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path = tmp_path / f"a.jsonl.{ending}"
    path.write_bytes(PACKERS[ending](content[:99]) + PACKERS[ending](content[99:]))  # as cat joins them
    tables = read_all(planned(path), ["q", "n"])
    assert len(tables) == 3
    assert pa.concat_tables(tables).select(["q", "n"]).to_pylist() == rows


@pytest.mark.parametrize("ending", PACKERS)
def test_a_compressed_file_that_was_cut_off_is_a_bad_shard(tmp_path, ending):
    path = tmp_path / f"a.jsonl.{ending}"
    path.write_bytes(PACKERS[ending](b'{"q": "x"}\n' * 1000)[:-20])
    with pytest.raises(ConfigError, match="unreadable: (EOFError|OSError)"):
        planned(path)


def test_a_link_that_leads_nowhere_is_a_bad_shard(tmp_path):
    (tmp_path / "a.parquet").symlink_to("gone")
    with pytest.raises(ConfigError, match=r"1 bad input file\(s\): .*a.parquet: unreadable: "):
        planned(tmp_path)


def test_a_flipped_bit_in_a_page_with_a_checksum_makes_its_unit_unreadable(tmp_path):
    path = tmp_path / "a.parquet"
    table = pa.table({"q": ["one", "two"], "n": [1, 2]})
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(table, path, write_page_checksum=True, **plain)
    path.write_bytes(path.read_bytes().replace(b"two", b"twx", 1))
    assert pq.read_table(path).column("q").to_pylist() == ["one", "twx"]  # it decodes all the same
    [table] = read_all(planned(path), ["q", "n"])
    error = table.column(ROW_ERROR)[0].as_py()
    assert error.startswith("input is damaged: ")
    assert "CRC" in error


def completed(error: str) -> tuple[pa.Table, TableLayout]:
    """A unit of one error row as the generate actor hands it on."""
    layout = TableLayout(pa.schema([]), ())
    columns = {field.name: pa.nulls(1, field.type) for field in layout.output}
    columns |= {"id": ["a"], "error": [error]}
    facts = json.dumps({"counts": {"rows_in": 1, "rows": 1, "errors": 1}})
    return pa.table({**columns, SHARD: [2], UNIT: [0], ENGINE: [facts]}), layout


@pytest.mark.parametrize(
    ("error", "mode", "is_written"),
    [
        ("input is damaged: x", "fail", False),
        ("input is damaged: x", "skip", True),
        ("input was overwritten: x", "skip", False),
        ("prompt is null", "fail", True),
    ],
)
def test_what_is_written_of_a_damaged_unit(tmp_path, error, mode, is_written):
    table, layout = completed(error)
    [summary] = commit_unit(table, str(tmp_path), layout, "f", on_bad_shard=mode).column(SUMMARY).to_pylist()
    assert (len(list_directory(str(tmp_path))) == 1) == is_written
    assert json.loads(summary).get("unreadable") == (None if is_written else error)


def test_a_dry_run_names_damaged_pages(tree, prompts_dir):
    damage_pages(prompts_dir / "a.parquet", 0)
    job = job_of(tree)
    with pytest.raises(ConfigError, match="1 bad input file.*a.parquet, unit 0"):
        preview(job)
    tree["input"]["on_bad_shard"] = "skip"
    rows = preview(job_of(tree)).rows
    assert [row.id for _, row in rows] == ["row-7", "row-8", "row-9"]  # of the next shard with rows


def test_manifest_and_plan_of_a_run_with_skipped_shards_agree_on_resume(tree, prompts_dir):
    (prompts_dir / "b.parquet").write_bytes(b"PAR1 and then nothing")
    tree["input"]["on_bad_shard"] = "skip"
    job = job_of(tree)
    assert [entry["url"] for entry in job.manifest()["skipped_inputs"]] == [f"{prompts_dir}/b.parquet"]
    job.ledger.start(job.plan, job.manifest())
    again = job_of(tree)
    assert (again.is_new, again.plan) == (False, job.plan)
