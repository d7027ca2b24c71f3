"""Progress lines."""

import io
import logging

from rich.console import Console

from pipelines.generate.progress import Progress

UNIT = {"rows": 4, "counts": {"completion_tokens": 40, "steps": 10, "step_tokens": 38, "errors": 1}}


def test_a_line_says_rows_tokens_errors_and_acceptance_length():
    progress = Progress(total_rows=10, done_rows=2, every_s=10)
    assert progress.line().startswith("progress rows=2/10 tokens=0 errors=0 ")
    progress.add(UNIT)
    line = progress.line()
    assert line.startswith("progress rows=6/10 tokens=40 errors=1 tokens_per_s=")
    assert " acceptance_length=3.80 " in line


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
    console = Console(file=screen, force_terminal=True, width=120)
    with (
        caplog.at_level(logging.INFO),
        Progress(total_rows=4, done_rows=0, every_s=0.01, console=console) as progress,
    ):
        progress.add(UNIT)
    assert "4/4" in screen.getvalue()
    assert caplog.records == []
