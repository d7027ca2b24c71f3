"""Progress lines."""

import io
import logging
import time

import pytest
from rich.console import Console

from pipelines.generate.progress import Progress
from pipelines.generate.speed import SpeedWindow, show_duration

UNIT = {"rows": 4, "counts": {"completion_tokens": 40, "steps": 10, "step_tokens": 38, "errors": 1}}
READY = {"state": "ready", "tokens": 30.0}


def wait_until(condition, patience_s=10.0):
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_line_says_rows_tokens_errors_and_acceptance_length():
    progress = Progress(total_rows=10, done_rows=2, every_s=10)
    assert progress.line().startswith("progress rows=2/10 tokens=0 errors=0 eta=- ")
    progress.add(UNIT)
    line = progress.line()
    assert line.startswith("progress rows=6/10 tokens=40 errors=1 ")
    assert " acceptance_length=3.80 " in line


def test_tokens_of_units_in_progress_count_and_engines_are_told_apart_by_state(caplog):
    progress = Progress(total_rows=10, done_rows=0, every_s=0.01)
    progress.watch(lambda: {"begun": 3, "actors": {"a": READY, "b": READY, "c": {"state": "loading"}}})
    with caplog.at_level(logging.INFO), progress:
        wait_until(lambda: "units_in_flight" in caplog.text)
    line = next(record.message for record in caplog.records if "units_in_flight" in record.message)
    assert " tokens=60 " in line
    assert " units_in_flight=3 engines_ready=2 engines_loading=1 " in line


def test_the_time_left_comes_from_the_speed_of_this_run_and_the_length_of_its_rows():
    progress = Progress(total_rows=106, done_rows=90, every_s=10)  # 90 of an earlier run
    progress.add(UNIT)  # 4 rows of 10 tokens: 12 rows, so 120 tokens, are left
    for second in range(5):
        progress._speed.add(8.0 * second, at_s=second)
    progress._seen = {"begun": 2, "actors": {"a": {"state": "ready", "tokens": 60.0}}}  # 20 of the 120
    assert " eta=12s " in progress.line()


def test_off_a_terminal_the_last_line_is_always_logged(caplog):
    with caplog.at_level(logging.INFO), Progress(total_rows=4, done_rows=0, every_s=60) as progress:
        progress.add(UNIT)
    assert [record.message.split()[1] for record in caplog.records] == ["rows=4/4"]


def test_lines_come_every_few_seconds(caplog):
    with caplog.at_level(logging.INFO), Progress(total_rows=4, done_rows=0, every_s=0.01) as progress:
        progress._thread.join(0.1)
    assert len(caplog.records) > 2


def test_on_a_terminal_there_is_a_bar_and_no_line(caplog):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=160)
    with (
        caplog.at_level(logging.INFO),
        Progress(total_rows=4, done_rows=0, every_s=0.01, console=console) as progress,
    ):
        progress.add(UNIT)
    assert "4/4" in screen.getvalue()
    assert "acceptance length 3.80" in screen.getvalue()
    assert caplog.records == []


def test_a_note_comes_at_once_on_a_terminal_and_in_a_log(caplog):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=160)
    Progress(total_rows=4, done_rows=0, every_s=9, console=console).note("stopping")
    assert "stopping" in screen.getvalue()
    Progress(total_rows=4, done_rows=0, every_s=9).note("stopping")
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_speed_is_that_of_the_last_minute():
    speed = SpeedWindow(window_s=60)
    for second in range(200):
        speed.add(min(second, 100) * 10.0, at_s=second)  # 10 a second, then none from second 100 on
        if second == 99:
            assert speed.per_s() == pytest.approx(10.0)
    assert speed.per_s() == 0.0


def test_loading_is_no_part_of_the_speed():
    speed = SpeedWindow()
    for second, tokens in enumerate([0, 0, 0, 0, 50, 100]):
        speed.add(tokens, at_s=second)
    assert speed.per_s() == pytest.approx(50.0)


@pytest.mark.parametrize(
    ("seconds", "text"), [(44.6, "45s"), (750, "12m30s"), (11100, "3h05m"), (59.9, "1m00s")]
)
def test_a_duration_is_short(seconds, text):
    assert show_duration(seconds) == text
