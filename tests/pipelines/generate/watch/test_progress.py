"""Progress lines."""

import io
import logging

import pytest
from rich.console import Console

from pipelines.command.wording import show_duration
from pipelines.generate.watch.progress import Progress, SpeedWindow
from tests.processes import wait_until

UNIT = {"rows": 4, "counts": {"completion_tokens": 40, "steps": 10, "step_tokens": 38, "errors": 1}}
READY = {"state": "ready", "tokens": 30.0}


def test_a_line_says_rows_tokens_errors_and_acceptance_length():
    progress = Progress(total_rows=10, done_rows=2, every_s=10)
    assert progress.line().startswith("progress rows=2/10 percent=20 eta=- tokens=0 errors=0 ")
    progress.add(UNIT)
    line = progress.line()
    assert line.startswith("progress rows=6/10 percent=60 eta=- tokens=40 errors=1 ")
    assert " acceptance_length=3.80 " in line


def test_tokens_of_units_in_progress_count_and_engines_are_told_apart_by_state(caplog):
    progress = Progress(total_rows=10, done_rows=0, every_s=0.01)
    progress.watch(lambda: {"begun": 3, "actors": {"a": READY, "b": READY, "c": {"state": "loading"}}})
    with caplog.at_level(logging.INFO), progress:
        wait_until(lambda: "units_in_flight" in caplog.text, 10)
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


def test_rows_of_a_unit_in_progress_count_so_that_a_run_of_one_unit_moves_and_has_a_time_left():
    progress = Progress(total_rows=200, done_rows=0, every_s=10)
    for second in range(5):
        progress._speed.add(100.0 * second, at_s=second)
    progress._seen = {"begun": 1, "actors": {"a": {"state": "ready", "tokens": 400.0, "rows": 49.9}}}
    assert progress.line().startswith("progress rows=49/200 percent=24 eta=12s ")  # 1232 tokens more


def test_a_committed_unit_is_not_counted_again_with_its_actors_older_figures():
    progress = Progress(total_rows=20, done_rows=0, every_s=10)
    progress._seen = {"begun": 2, "actors": {"a": READY | {"rows": 6}, "b": READY | {"rows": 2}}}
    assert "rows=8/20" in progress.line()
    progress.add(UNIT | {"actor": "a"})
    assert "rows=8/20" in progress.line()


def test_rows_shown_never_fall():
    progress = Progress(total_rows=20, done_rows=0, every_s=10)
    for rows in (6, 4):
        progress._seen = {"begun": 2, "actors": {"a": READY | {"rows": rows}}}
        assert "rows=6/20" in progress.line()


def test_when_all_rows_are_finished_and_not_all_committed_the_audit_is_what_is_left():
    progress = Progress(total_rows=4, done_rows=0, every_s=10)
    progress._seen = {"begun": 1, "actors": {"a": READY | {"rows": 4}}}
    assert " eta=audit " in progress.line()
    progress.add(UNIT | {"actor": "a"})
    assert " eta=0s " in progress.line()


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("scale", [1, 10**9])
def test_rows_share_and_time_left_come_first_and_are_never_cut(width, scale):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=width, color_system=None)
    progress = Progress(total_rows=500 * scale, done_rows=165 * scale, every_s=9, console=console)
    progress.add({"rows": 35 * scale, "counts": UNIT["counts"] | {"completion_tokens": 10637 * scale}})
    for second in range(5):
        progress._speed.add(2646.7 * scale * second, at_s=second)
    progress._seen = {"begun": 2, "actors": {str(n): {"state": "ready"} for n in range(3000)}}
    progress._show_bar()
    console.print(progress._bar.get_renderable())
    first, second = screen.getvalue().splitlines()
    assert first.split()[:5] == [f"{200 * scale}/{500 * scale}", "rows", "40%", "eta", "34s"]
    assert "tokens/s · " in second
    assert max(len(first), len(second)) <= width


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
    console = Console(file=screen, force_terminal=True, width=80)
    with (
        caplog.at_level(logging.INFO),
        Progress(total_rows=4, done_rows=0, every_s=0.01, console=console) as progress,
    ):
        progress.add(UNIT)
    assert "4/4" in screen.getvalue()
    assert "3.80 tokens/step" in screen.getvalue()
    assert caplog.records == []


def test_a_bar_counts_one_of_a_kind_as_one():
    console = Console(file=io.StringIO(), force_terminal=True)
    progress = Progress(total_rows=4, done_rows=0, every_s=9, console=console)
    progress._counts = {"errors": 1}
    progress._seen = {"begun": 1, "actors": {"a": READY, "b": {"state": "loading"}}}
    progress._show_bar()
    assert progress._bar.figures == "30 tokens · 1 error · 1 unit in work · 1 engine ready · 1 loading"


def test_what_is_logged_to_a_terminal_comes_above_the_bar(monkeypatch):
    screen, terminal = io.StringIO(), io.StringIO()
    terminal.isatty = lambda: True
    handler = logging.StreamHandler(terminal)
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    console = Console(file=screen, force_terminal=True, width=80)
    with Progress(total_rows=4, done_rows=0, every_s=9, console=console):
        logging.warning("engines differ")
    logging.warning("afterwards")
    assert "engines differ" in screen.getvalue()
    assert terminal.getvalue() == "afterwards\n"


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
