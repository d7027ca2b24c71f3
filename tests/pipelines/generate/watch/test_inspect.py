"""A run looked at from outside."""

import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from orthrus_core.errors import ConfigError
from pipelines.cluster.lock import RunLock, watch_owner
from pipelines.generate.watch.inspect import RunState, error_rows, inspect_run
from pipelines.generate.watch.inspect_view import render_state

UNIT_ROWS = (15, 15, 14)  # of the first units: 100 rows in seven pieces as equal as can be

pytestmark = pytest.mark.ray


@pytest.fixture
def output(finished, tmp_path) -> Path:
    """A copy of a finished run of 223 rows in units of at most 16, two of them errors in the last unit."""
    return Path(shutil.copytree(finished[0].ledger.url, tmp_path / "copy"))


@pytest.fixture
def half_done(output) -> Path:
    """As a killed driver leaves it: two units missing, written a second apart, no report."""
    for name in ("_SUCCESS", "report.json"):
        (output / "_run" / name).unlink()
    for number, name in enumerate(sorted(os.listdir(output / "data"))):
        if number < 2:
            (output / "data" / name).unlink()
        else:
            os.utime(output / "data" / name, (1000.0 + number, 1000.0 + number))
    return output


def shown(state, errors=()) -> str:
    console = Console(width=200)
    with console.capture() as screen:
        console.print(render_state(state, errors))
    return screen.get()


def test_a_finished_run_is_done_with_its_report(finished, output):
    state = inspect_run(str(output))
    assert (state.status, state.driver) == ("done", "none")
    assert (state.units_done, state.rows_done) == (state.units, 223)
    assert state.counts["completion_tokens"] == finished[1]["completion_tokens"]
    assert state.report == finished[1]


def test_a_killed_run_is_stopped_and_counts_what_is_committed(half_done):
    state = inspect_run(str(half_done))
    assert (state.status, state.driver, state.units - state.units_done) == ("stopped", "none", 2)
    assert state.rows_done == state.counts["rows"] == 223 - sum(UNIT_ROWS[:2])
    assert "goes on with it" in shown(state)


def test_a_run_in_progress_has_a_speed_and_a_time_left(half_done):
    with RunLock(f"{half_done}/_run"):
        state = inspect_run(str(half_done))
    assert (state.status, state.driver) == ("running", "alive")
    seconds = state.units_done - 1  # a unit a second
    assert state.rows_per_s == pytest.approx((state.rows_done - UNIT_ROWS[2]) / seconds)
    assert state.seconds_left == pytest.approx(sum(UNIT_ROWS[:2]) / state.rows_per_s)
    assert "running" in shown(state)


def test_an_interrupted_run_says_why(half_done):
    report = {"status": "interrupted", "exit_code": 3, "reason": "drained", "rows": 191, "this_run": {}}
    (half_done / "_run/report.json").write_text(json.dumps(report))
    state = inspect_run(str(half_done))
    assert state.status == "interrupted"
    assert "interrupted: drained" in shown(state)


def test_error_rows_are_listed_with_their_reasons(output):
    state = inspect_run(str(output))
    rows = error_rows(state, 10)
    assert [row["id"] for row in rows] == ["null", "long"]
    assert state.errors == sum(state.failed_units.values()) == 2
    text = shown(state, rows)
    assert "2 in 1 unit; --only-failed runs these again" in text
    assert "prompt column prompt is null" in text
    assert len(error_rows(state, 1)) == 1


def test_error_rows_are_found_under_the_names_that_the_files_have(tmp_path):
    pq.write_table(pa.table({"row": ["a", "b"], "why": [None, "too long"]}), tmp_path / "a.parquet")
    state = RunState(
        "", "", "done", "none", 1, 1, 2, 2,
        failed_units={str(tmp_path / "a.parquet"): 1},
        rename={"id": "row", "error": "why"},
    )  # fmt: skip
    assert error_rows(state, 9) == [{"id": "b", "error": "too long"}]


def test_all_of_it_is_json(output):
    tree = json.loads(json.dumps(inspect_run(str(output)).to_dict()))
    assert (tree["status"], tree["rows"], tree["errors"]) == ("done", 223, 2)


def test_a_truncated_and_a_missing_file_of_a_finished_run_are_named(output):
    first, second, *_ = sorted((output / "data").iterdir())
    first.write_bytes(first.read_bytes()[:-100])
    second.unlink()
    state = inspect_run(str(output))
    assert (state.status, state.units - state.units_done) == ("damaged", 2)
    text = shown(state)
    assert f"data/{second.name} is gone" in text
    assert f"{first.name} is no whole Parquet file" in text
    assert "Move away what is damaged" in text


def test_a_flipped_bit_in_a_page_is_found_by_verify_alone(output):
    path = sorted((output / "data").iterdir())[3]
    column = pq.read_metadata(path).row_group(0).column(0)
    content = bytearray(path.read_bytes())
    content[column.data_page_offset + column.total_compressed_size // 2] ^= 1
    path.write_bytes(content)
    assert inspect_run(str(output)).faults == []
    state = inspect_run(str(output), verify=True)
    assert state.status == "damaged"
    [fault] = state.faults
    assert fault.startswith(f"{path} is no whole Parquet file")


def test_verify_finds_nothing_in_a_whole_run(output):
    assert inspect_run(str(output), verify=True).faults == []


def test_a_path_without_a_run_is_a_mistake_of_the_caller(tmp_path):
    with pytest.raises(ConfigError, match="no run at"):
        inspect_run(str(tmp_path))


def lock_of_another_machine(run: Path, beats: int) -> None:
    owner = {"id": "x", "host": "elsewhere", "boot": "b", "pid": 1, "started": "1", "beats": beats}
    run.mkdir(exist_ok=True)
    (run / "lock").write_text(json.dumps(owner))


def test_a_lock_that_is_not_written_yet_tells_nothing_of_its_owner(tmp_path):
    (tmp_path / "_run").mkdir()
    (tmp_path / "_run/lock").touch()
    assert watch_owner(f"{tmp_path}/_run", watch_s=0.0) == "unknown"


def test_a_driver_on_another_machine_is_known_by_its_heartbeat(tmp_path, monkeypatch):
    lock_of_another_machine(tmp_path / "_run", 1)
    assert watch_owner(f"{tmp_path}/_run", watch_s=0.0) == "unknown"
    monkeypatch.setattr("pipelines.cluster.lock.BEAT_S", 0.05)
    assert watch_owner(f"{tmp_path}/_run", watch_s=0.1) == "dead"
    monkeypatch.setattr("time.sleep", lambda _: lock_of_another_machine(tmp_path / "_run", 2))
    assert watch_owner(f"{tmp_path}/_run", watch_s=0.1) == "alive"
