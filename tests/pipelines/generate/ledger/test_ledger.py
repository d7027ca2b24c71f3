"""The plan of units, and what the output directory says about a run."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orthrus_core.errors import ConfigError, OrthrusError
from pipelines.generate.ledger.ledger import Ledger, check_counts, fingerprint
from pipelines.read.shard import Shard
from pipelines.read.shards import Inspection
from pipelines.read.units import Plan, Unit, plan_units
from pipelines.storage.file_info import FileInfo
from pipelines.storage.files import list_directory, put, remove

SCHEMA = pa.schema([("q", pa.string())])
FILE = FileInfo("/in/a.parquet", 100, None, 5.0)
IDENTITY = {"model.hash": "m1", "decode.block_size": None, "sampling.stop_token_ids": (1, 2)}


def parquet(*row_groups, index=0) -> Shard:
    return Shard(index, FILE, "parquet", sum(row_groups), row_groups)


def plan(*shards, unit_rows) -> Plan:
    return plan_units(Inspection(shards, SCHEMA), unit_rows)


def ranges(units) -> list[tuple[int, int]]:
    return [(unit.start, unit.num_rows) for unit in units]


@pytest.fixture
def ledger(tmp_path):
    return Ledger(f"{tmp_path}/out")


@pytest.fixture
def begun(ledger):
    """A ledger of two units, none of them done."""
    two = plan(parquet(10), unit_rows=5)
    ledger.start(two, {"identity": IDENTITY, "inputs": [FILE.to_dict()]})
    return ledger, two


def test_small_row_groups_are_packed_into_a_unit():
    assert ranges(plan(parquet(3, 3, 3, 3), unit_rows=7).units) == [(0, 6), (6, 6)]


def test_a_large_row_group_is_cut_into_even_pieces():
    assert ranges(plan(parquet(10), unit_rows=4).units) == [(0, 4), (4, 3), (7, 3)]


def test_no_unit_crosses_the_border_of_a_cut_row_group():
    assert ranges(plan(parquet(2, 5, 2), unit_rows=3).units) == [(0, 2), (2, 3), (5, 2), (7, 2)]


def test_units_are_numbered_within_their_shard():
    units = plan(parquet(4, index=0), parquet(index=1), parquet(2, index=2), unit_rows=2).units
    assert [unit.file_name for unit in units] == [
        "part-00000-00000.parquet",
        "part-00000-00001.parquet",
        "part-00002-00000.parquet",
    ]


def test_jsonl_units_know_their_bytes():
    shard = Shard(0, FILE, "jsonl", 5, offsets=(0, 20, 40, 50))
    units = plan(shard, unit_rows=2).units
    assert [(u.start, u.num_rows, u.first_byte, u.last_byte) for u in units] == [
        (0, 2, 0, 20),
        (2, 2, 20, 40),
        (4, 1, 40, 50),
    ]


@given(st.lists(st.integers(0, 40), max_size=8), st.integers(1, 15))
def test_units_cover_every_row_once_in_order_and_none_is_too_large(groups, unit_rows):
    units = plan(parquet(*groups), unit_rows=unit_rows).units
    rows = [row for unit in units for row in range(unit.start, unit.start + unit.num_rows)]
    assert rows == list(range(sum(groups)))
    assert all(1 <= unit.num_rows <= unit_rows for unit in units)


def test_a_plan_survives_storing():
    stored = plan(parquet(3, 9), Shard(1, FILE, "jsonl", 2, offsets=(0, 9)), unit_rows=4)
    assert Plan.from_json(stored.to_json()) == stored


def test_an_empty_output_is_a_new_run(ledger):
    assert ledger.open(IDENTITY, [FILE]) is None


def test_the_same_run_gets_its_stored_plan_back(begun):
    ledger, two = begun
    assert ledger.open(IDENTITY, [FILE]) == two


def test_what_is_left_is_what_has_no_file(begun):
    ledger, two = begun
    assert ledger.remaining(two) == list(two.units)
    put(ledger.unit_url(two.units[0]), b"x")
    assert ledger.remaining(two) == [two.units[1]]


def test_a_half_written_file_is_not_done_and_is_cleared(begun):
    ledger, two = begun
    put(f"{ledger.data_url}/.part-00000-00000.parquet.1.tmp", b"half")
    assert ledger.remaining(two) == list(two.units)
    ledger.start(two, {"identity": IDENTITY, "inputs": []})
    assert list_directory(ledger.data_url) == {}


def test_another_configuration_is_refused_with_both_values(begun):
    ledger, _ = begun
    with pytest.raises(ConfigError) as caught:
        ledger.open(IDENTITY | {"decode.block_size": 4, "model.hash": "m2"}, [FILE])
    assert str(caught.value) == (
        f"output.path {ledger.url} belongs to another run: decode.block_size was null, is 4, "
        'model.hash was "m1", is "m2"; restore these or choose another output.path'
    )


@pytest.mark.parametrize(
    ("now", "difference"),
    [
        ([FileInfo(FILE.url, 101, None, 5.0)], "has another size"),
        ([FileInfo(FILE.url, 100, None, 6.0)], "has another mtime"),
        ([], "is gone"),
        ([FILE, FileInfo("/in/b.parquet", 1)], "is new"),
    ],
)
def test_changed_inputs_are_refused(begun, now, difference):
    ledger, _ = begun
    with pytest.raises(ConfigError, match=difference):
        ledger.open(IDENTITY, now)


def test_a_store_with_etags_is_not_asked_for_times(ledger):
    file = FileInfo("s3://b/a.parquet", 100, "e1", 5.0)
    ledger.start(plan(parquet(1), unit_rows=1), {"identity": IDENTITY, "inputs": [file.to_dict()]})
    assert ledger.open(IDENTITY, [FileInfo(file.url, 100, "e1", 9.0)]) is not None
    with pytest.raises(ConfigError, match="has another etag"):
        ledger.open(IDENTITY, [FileInfo(file.url, 100, "e2", 5.0)])


def test_a_replaced_file_is_accepted_on_demand_named_and_read_as_it_is_now(ledger, caplog):
    file = FileInfo("s3://b/a.parquet", 100, "e1", 5.0)
    shard = Shard(0, file, "parquet", 1, (1,))
    ledger.start(plan(shard, unit_rows=1), {"identity": IDENTITY, "inputs": [file.to_dict()]})
    now = FileInfo(file.url, 100, "e2", 6.0)
    with pytest.raises(ConfigError, match="set input.on_changed: accept"):
        ledger.open(IDENTITY, [now])
    assert ledger.open(IDENTITY, [now], on_changed="accept").shards[0].file == now
    assert f"input {file.url} has another etag" in caplog.text


@pytest.mark.parametrize("now", [[], [FileInfo(FILE.url, 101, None, 5.0)]])
def test_a_file_that_is_gone_or_of_another_size_is_never_accepted(begun, now):
    with pytest.raises(ConfigError, match=r"belongs to another run: .*choose another output.path$"):
        begun[0].open(IDENTITY, now, on_changed="accept")


def test_data_without_a_manifest_is_refused(ledger):
    put(f"{ledger.data_url}/part-00000-00000.parquet", b"x")
    with pytest.raises(ConfigError, match="no _run/manifest.json"):
        ledger.open(IDENTITY, [FILE])


def test_a_file_that_is_no_unit_is_refused(begun):
    ledger, two = begun
    put(f"{ledger.data_url}/part-00007-00000.parquet", b"x")
    with pytest.raises(ConfigError, match="files of no unit: part-00007-00000.parquet"):
        ledger.remaining(two)


def test_a_finished_run_has_report_card_and_success(begun):
    ledger, _ = begun
    ledger.finish({"rows": 10}, "# card")
    assert set(list_directory(ledger.run_url)) == {"_SUCCESS", "manifest.json", "plan.json", "report.json"}
    assert set(list_directory(ledger.url)) == {"README.md"}


def test_only_a_finished_run_has_a_finished_report(begun):
    ledger, two = begun
    ledger.write_report({"status": "failed"})
    assert ledger.finished_report() is None
    ledger.finish({"rows": 10}, "# card")
    assert ledger.finished_report() == {"rows": 10}
    ledger.start(two, {"identity": IDENTITY, "inputs": []})
    assert ledger.finished_report() is None


@pytest.fixture
def complete(begun):
    """A ledger of a complete run: two unit files, one side file."""
    ledger, two = begun
    for unit in two.units:
        put(ledger.unit_url(unit), b"12345")
    put(f"{ledger.dropped_url}/part-00000-00001.parquet", b"123")
    put(f"{ledger.data_url}/.part.tmp", b"of a killed writer")
    ledger.finish({"rows": 10}, "# card")
    return ledger


def test_a_complete_run_whose_files_are_as_they_were_is_trusted(complete):
    assert complete.changes_since_success() == []
    put(f"{complete.data_url}/.part.tmp", b"another")
    assert complete.finished_report() == {"rows": 10}


@pytest.mark.parametrize(
    ("file", "content", "change"),
    [
        ("data/part-00000-00001.parquet", b"123", "data/part-00000-00001.parquet has 3 bytes of 5"),
        ("data/part-00000-00000.parquet", None, "data/part-00000-00000.parquet is gone"),
        ("dropped/part-00000-00001.parquet", None, "dropped/part-00000-00001.parquet is gone"),
        ("dropped/part-00000-00000.parquet", b"1", "dropped/part-00000-00000.parquet is new"),
        ("_run/_SUCCESS", b"[", "_run/_SUCCESS is damaged"),
    ],
)
def test_a_complete_run_whose_files_have_changed_is_not_trusted(complete, caplog, file, content, change):
    remove(f"{complete.url}/{file}")
    if content is not None:
        put(f"{complete.url}/{file}", content)
    assert complete.changes_since_success() == [change]
    assert complete.finished_report() is None
    assert change in caplog.text


def test_an_empty_mark_of_success_is_trusted(complete):
    put(f"{complete.run_url}/_SUCCESS", b"")
    put(f"{complete.data_url}/part-00000-00001.parquet", b"1")
    assert complete.finished_report() == {"rows": 10}


@pytest.mark.parametrize(
    ("rows", "counts", "side_rows", "fault"),
    [
        (5, {"rows_in": 5, "rows": 5}, 0, None),
        (12, {"rows_in": 5, "rows": 12, "dropped": 3}, 3, None),
        (0, {"rows_in": 5, "rows": 0, "dropped": 5}, 5, None),
        (4, {}, 0, "has 4 input rows of 5"),
        (4, {"rows_in": 4, "rows": 4}, 0, "has 4 input rows of 5"),
        (4, {"rows_in": 5, "rows": 5}, 0, "has 4 rows of 5"),
        (4, {"rows_in": 5, "rows": 4, "dropped": 1}, 0, "has 0 dropped rows of 1"),
        (4, {"rows_in": 5, "rows": 4, "dropped": 1}, 2, "has 2 dropped rows of 1"),
    ],
)
def test_input_rows_rows_and_dropped_rows_of_a_unit_must_add_up(rows, counts, side_rows, fault):
    units = [Unit(0, 0, 0, 5), Unit(0, 1, 5, 5)]
    fine = {"rows": 5, "counts": {"rows_in": 5, "rows": 5}}
    footers = [fine, {"rows": rows, "counts": counts}]
    dropped = {"part-00000-00001.parquet": side_rows} if side_rows else {}
    if fault is None:
        check_counts(units, footers, dropped)
        return
    with pytest.raises(OrthrusError, match=f"part-00000-00001.parquet {fault}"):
        check_counts(units, footers, dropped)


def test_the_fingerprint_changes_with_any_value():
    assert fingerprint(IDENTITY) == fingerprint(dict(reversed(IDENTITY.items())))
    assert fingerprint(IDENTITY) != fingerprint(IDENTITY | {"model.hash": "m2"})


@pytest.mark.parametrize("content", [b"", b'{"identity": {', b"[1]", b'{"inputs": []}'])
def test_a_damaged_manifest_is_refused(begun, content):
    ledger, _ = begun
    put(f"{ledger.run_url}/manifest.json", content)
    with pytest.raises(
        ConfigError, match=r"_run/manifest.json is damaged \(.*restore it from a copy, or choose"
    ):
        ledger.open(IDENTITY, [FILE])


@pytest.mark.parametrize(
    "content", [b"", b'{"shards": [', b"{}", b'{"shards": [], "units": [], "schema": "x"}']
)
def test_a_damaged_plan_counts_as_none_so_that_it_is_made_again(begun, content, caplog):
    ledger, _ = begun
    put(f"{ledger.run_url}/plan.json", content)
    assert ledger.open(IDENTITY, [FILE]) is None
    assert "_run/plan.json is damaged and made again" in caplog.text


def test_an_empty_file_is_no_finished_unit(begun):
    ledger, two = begun
    put(ledger.unit_url(two.units[0]), b"")
    put(ledger.unit_url(two.units[1]), b"x")
    assert ledger.remaining(two) == [two.units[0]]


def test_a_damaged_report_of_a_complete_run_counts_as_none(begun):
    ledger, _ = begun
    ledger.finish({"rows": 10}, "# card")
    put(f"{ledger.run_url}/report.json", b'{"rows"')
    assert ledger.finished_report() is None
