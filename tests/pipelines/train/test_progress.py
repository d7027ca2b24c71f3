import io
import logging

from rich.console import Console

from pipelines.train.progress import TrainProgress
from tests.processes import wait_until

SEEN = {"step": 7, "tokens": 500, "loss": 1.25, "grad_norm": 0.5, "lr": 0.1, "tokens_per_s": 50.0}


def test_a_line_says_where_the_run_is(caplog):
    caplog.set_level(logging.INFO)
    with TrainProgress(max_tokens=1500, every_s=60) as progress:
        progress.watch(lambda: SEEN | {"held_out": {"loss": 2.0, "acceptance_length": 3.5}})
    assert caplog.messages == [
        "train step=7 tokens=500/1500 loss=1.25 grad_norm=0.5 lr=0.1 tokens_per_s=50 eta=20s "
        "held_out_loss=2 acceptance_length=3.5"
    ]


def test_lines_come_every_few_seconds(caplog):
    caplog.set_level(logging.INFO)
    steps = iter(range(1000))
    with TrainProgress(max_tokens=1500, every_s=0.02) as progress:
        progress.watch(lambda: SEEN | {"step": next(steps)})
        wait_until(lambda: len(caplog.messages) >= 3, 10)


def test_a_terminal_gets_a_bar_and_no_lines(caplog):
    caplog.set_level(logging.INFO)
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    with TrainProgress(max_tokens=1000, every_s=60, console=console) as progress:
        progress.watch(lambda: SEEN)
    assert "50%" in screen.getvalue()
    assert "loss 1.25" in screen.getvalue()
    assert not caplog.messages
