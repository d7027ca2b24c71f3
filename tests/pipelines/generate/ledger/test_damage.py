"""Unit files that are not what they should be."""

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orthrus_core.errors import OrthrusError
from pipelines.generate.ledger.damage import checked_footers
from pipelines.generate.ledger.ledger import Ledger
from pipelines.read.units import Unit

UNITS = [Unit(0, 0, 0, 2), Unit(0, 1, 2, 2), Unit(1, 0, 0, 2)]


def write_unit(ledger, unit, *, fingerprint="f1", shard=None):
    footer = {"fingerprint": fingerprint, "shard": unit.shard if shard is None else shard, "unit": unit.index}
    table = pa.table({"id": ["a", "b"]}).replace_schema_metadata({b"orthrus": json.dumps(footer).encode()})
    pq.write_table(table, ledger.unit_url(unit))


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(f"{tmp_path}/out")
    os.makedirs(ledger.data_url)
    for unit in UNITS:
        write_unit(ledger, unit)
    return ledger


def refusal(ledger) -> str:
    with pytest.raises(OrthrusError) as caught:
        checked_footers(ledger, UNITS, {"f1"})
    return str(caught.value)


def names(ledger) -> list[str]:
    return sorted(os.listdir(ledger.data_url))


def test_whole_files_pass(ledger):
    checked_footers(ledger, UNITS, {"f1"})
    assert len(names(ledger)) == 3


def test_a_truncated_file_is_removed_and_named(ledger):
    url = ledger.unit_url(UNITS[1])
    os.truncate(url, os.path.getsize(url) - 5)
    assert refusal(ledger).startswith(f"1 damaged unit file(s) removed: {url} is no whole Parquet file: ")
    assert names(ledger) == ["part-00000-00000.parquet", "part-00001-00000.parquet"]


def test_a_file_that_holds_another_unit_is_removed(ledger):
    write_unit(ledger, UNITS[0], shard=7)
    assert "part-00000-00000.parquet holds unit 0 of shard 7; the same command makes them" in refusal(ledger)
    assert names(ledger) == ["part-00000-00001.parquet", "part-00001-00000.parquet"]


def test_a_file_that_is_gone_is_named(ledger):
    os.unlink(ledger.unit_url(UNITS[2]))
    assert "part-00001-00000.parquet is gone" in refusal(ledger)


def test_a_whole_file_of_another_run_is_left_alone_with_all_others(ledger):
    write_unit(ledger, UNITS[0], fingerprint="f9")
    os.truncate(ledger.unit_url(UNITS[1]), 3)
    assert "1 file(s) of another run in data/: " in refusal(ledger)
    assert len(names(ledger)) == 3


def test_files_with_an_earlier_fingerprint_of_the_run_pass(ledger):
    write_unit(ledger, UNITS[0], fingerprint="f0")
    assert [footer["rows"] for footer in checked_footers(ledger, UNITS, {"f0", "f1"})] == [2, 2, 2]


def test_a_store_that_does_not_answer_damages_nothing(ledger, monkeypatch):
    def away(*_, **__):
        raise OSError("503 Slow Down")

    for name in ("open_file", "read_bytes"):
        monkeypatch.setattr(f"pipelines.generate.ledger.damage.{name}", away)
    with pytest.raises(OSError, match="503"):
        checked_footers(ledger, UNITS, {"f1"})
    assert len(names(ledger)) == 3
