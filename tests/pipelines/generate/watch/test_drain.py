"""Runs that are asked to stop: units in progress are finished, no further one begins."""

import asyncio
import json
import os
import pty
import select
import signal
import sys
import threading
import time
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from pipelines.cluster.board import BoardState
from pipelines.cluster.ray_data import Executions
from pipelines.command.signals import Interrupted
from pipelines.generate.decode.gate import UnitGate
from pipelines.generate.watch.drain import Drain, summaries
from pipelines.generate.write.sink import SUMMARY
from tests.pipelines.conftest import generate_tree, run_tree
from tests.pipelines.generate.test_resume import committed, generate_job
from tests.processes import JobProcess


class FakeBoard(BoardState):
    """The board without Ray."""

    async def begin(self, unit):
        return super().begin(unit)


class FakeExecutor:
    """What runs a dataset."""

    def __init__(self):
        self.ended = threading.Event()

    def start(self):
        Executions().on_execution_step(self)

    def shutdown(self, force):
        assert force
        self.ended.set()
        Executions().after_execution_succeeds(self)


class FakeDataset:
    """Units 0, 1, 2, ... of shard 0, a hundred a second; one that may not begin waits for the end."""

    def __init__(self, board, count, start_s=0.0):
        self.board, self.count, self.start_s = board, count, start_s
        self.executor = FakeExecutor()

    def iter_batches(self, **_):
        time.sleep(self.start_s)
        self.executor.start()
        for unit in range(self.count):
            if not BoardState.begin(self.board, (0, unit)):
                self.executor.ended.wait()
                return
            time.sleep(0.01)
            yield {SUMMARY: [json.dumps({"shard": 0, "unit": unit})]}
        self.executor.shutdown(force=True)


def units_taken(dataset, drain, stop, stop_at):
    taken = []
    for summary in summaries(dataset, drain, stop):
        if summary is not None:
            taken.append(summary["unit"])
            if summary["unit"] == stop_at:
                stop.set()
    return taken


def test_without_a_stop_all_units_come():
    board = FakeBoard()
    drain = Drain(board.stop, limit_s=9)
    assert units_taken(FakeDataset(board, 5), drain, threading.Event(), -1) == [0, 1, 2, 3, 4]


def test_a_drain_ends_when_every_unit_that_was_begun_is_committed():
    board, told = FakeBoard(), []
    drain = Drain(board.stop, limit_s=9, tell=told.append)
    started_at = time.monotonic()
    dataset = FakeDataset(board, 10**6)
    taken = units_taken(dataset, drain, threading.Event(), 2)
    assert {(0, unit) for unit in taken} == board.stop() >= {(0, 0), (0, 1), (0, 2)}
    assert time.monotonic() - started_at < 5
    assert dataset.executor.ended.is_set()
    assert "a second signal stops at once" in told[0]


def test_a_drain_that_takes_too_long_is_broken_off():
    board = FakeBoard()
    BoardState.begin(board, (7, 7))  # a unit that nobody finishes
    drain = Drain(board.stop, limit_s=0.2, tell=str)
    with pytest.raises(Interrupted, match=r"run.drain_s of 0.2 s"):
        units_taken(FakeDataset(board, 10**6), drain, threading.Event(), 1)


def test_a_stop_when_nothing_was_begun_ends_at_once():
    stop = threading.Event()
    stop.set()
    assert list(summaries(FakeDataset(FakeBoard(), 0), Drain(lambda: set(), 9, str), stop)) == []


def test_a_dataset_that_is_only_starting_is_ended_once_it_has_started():
    board, stop = FakeBoard(), threading.Event()
    board.stop()
    stop.set()
    dataset = FakeDataset(board, 10**6, start_s=0.5)
    assert list(summaries(dataset, Drain(board.stop, 9, str), stop)) == []
    assert dataset.executor.ended.is_set()


def test_what_a_stage_raises_reaches_the_driver():
    class Broken:
        def iter_batches(self, **_):
            raise ValueError("disk full")
            yield

    with pytest.raises(ValueError, match="disk full"):
        list(summaries(Broken(), Drain(set, 9), threading.Event()))


class FakeRows:
    """Rows in an engine."""

    left = 0


def test_a_unit_enters_when_fewer_rows_than_the_room_are_left():
    rows, board = FakeRows(), FakeBoard()
    gate = UnitGate(board, lambda: rows.left, room=24)
    rows.left = 24

    async def scenario():
        entering = asyncio.create_task(gate.enter((0, 0), 256))
        await asyncio.sleep(0.15)
        assert not entering.done()
        assert (gate.waiting, board.stop()) == (1, set())
        board._is_stopped = False
        rows.left = 23
        await asyncio.wait_for(entering, 1)
        assert gate.waiting == 0

    asyncio.run(scenario())


def test_two_units_that_look_at_the_same_time_do_not_both_enter():
    gate = UnitGate(FakeBoard(), lambda: 0, room=24)

    async def scenario():
        first, second = (asyncio.create_task(gate.enter((0, n), 256)) for n in range(2))
        await asyncio.sleep(0.15)
        assert (first.done(), second.done()) == (True, False)
        gate.arrived(256)
        await asyncio.wait_for(second, 1)

    asyncio.run(scenario())


def test_a_unit_that_may_not_begin_is_held_for_good():
    board = FakeBoard()
    board.stop()
    gate = UnitGate(board, lambda: 0, room=24)

    async def scenario():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(gate.enter((0, 0), 4), 0.2)

    asyncio.run(scenario())


def ended(process: JobProcess) -> int:
    """Exit code of a job that was told to stop, whose processes are gone."""
    try:
        return process.wait(60)
    finally:
        process.close(patience_s=10)


def report_of(output: Path) -> dict:
    return json.loads((output / "_run/report.json").read_text())


def start_on_terminal(tree: dict, directory: Path) -> tuple[JobProcess, int]:
    """Start the job as the foreground process group of a terminal of its own."""
    ours, its = pty.openpty()
    program = "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    program += "os.execv(sys.argv[1], sys.argv[1:])"
    process = generate_job(tree, directory, sys.executable, "-c", program)
    process.start(stdin=its, stdout=its, stderr=its)
    os.close(its)
    return process, ours


def read_terminal(fd: int, into: list[bytes]) -> None:
    while select.select([fd], [], [], 60)[0]:
        try:
            into.append(os.read(fd, 4096))
        except OSError:  # its last process is gone
            return


@pytest.mark.ray
@pytest.mark.timeout(480)
@pytest.mark.slow
def test_ctrl_c_on_a_terminal_finishes_units_in_progress_and_the_same_command_goes_on(
    finished, model_dir, many_prompts, tmp_path
):
    output = tmp_path / "out"
    tree = generate_tree(model_dir, many_prompts, output, unit_rows=8)
    process, terminal = start_on_terminal(tree, tmp_path)
    screen: list[bytes] = []
    reader = threading.Thread(target=read_terminal, args=(terminal, screen), daemon=True)
    reader.start()
    assert process.wait_until(lambda: len(committed(output)) >= 3), b"".join(screen).decode()
    process.below()
    os.write(terminal, b"\x03")
    assert ended(process) == 3
    reader.join(10)
    os.close(terminal)
    text = b"".join(screen).decode()
    kept = committed(output)
    assert "stopping: units in progress are finished first" in text
    assert "rows are finished and kept in" in text
    assert "Traceback" not in text
    assert not (output / "_run/lock").exists()
    report = report_of(output)
    rows = ds.dataset(output / "data").count_rows()
    assert (report["status"], report["exit_code"], report["rows"]) == ("interrupted", 3, rows)
    assert not list((output / "data").glob(".*"))

    job, again = run_tree(tree)

    assert len(job.units) == len(job.plan.units) - len(kept)
    assert 3 <= len(kept) < len(job.plan.units)
    columns = ["id", "sample", "prompt", "completion", "finish_reason", "error", "token_ids"]
    tables = [ds.dataset(one.ledger.data_url).to_table(columns).sort_by("id") for one in (job, finished[0])]
    assert tables[0] == tables[1]
    assert again["status"] == "done"


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(480)
@pytest.mark.parametrize(
    "moment", ["imports", "lock", "plan", "engine"], ids=["importing", "Ray starting", "loading", "2 signals"]
)
def test_a_sigterm_ends_the_job_well_whenever_it_comes(model_dir, many_prompts, tmp_path, moment):
    output = tmp_path / "out"
    tree = generate_tree(model_dir, many_prompts, output, unit_rows=8)
    process = generate_job(tree, tmp_path).start()
    if moment == "imports":
        time.sleep(1.0)
    else:
        marks = {"lock": "_run/lock", "plan": "_run/plan.json", "engine": "data/part-00000-00002.parquet"}
        assert process.wait_until((output / marks[moment]).exists), process.log
    process.signal(signal.SIGTERM)
    if moment == "engine":
        time.sleep(0.6)
        process.signal(signal.SIGTERM)
    assert ended(process) == 3
    assert "interrupted: " in process.log
    assert "Traceback" not in process.log
    assert not (output / "_run/lock").exists()
    if moment != "imports":
        assert report_of(output)["status"] == "interrupted"
