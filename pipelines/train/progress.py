"""How far training is: a bar on a terminal, a key=value line every few seconds elsewhere."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from pipelines.command.wording import show_duration

logger = logging.getLogger(__name__)

LOOK_S = 1.0
SHOWN = ("loss", "grad_norm", "lr", "tokens_per_s")

Look = Callable[[], Mapping[str, Any]]


class TrainProgress:
    """Shows what the workers report last; a context manager."""

    def __init__(self, *, max_tokens: int, every_s: float, console: Console | None = None) -> None:
        """Set up without starting.

        Args:
            max_tokens: of the whole run.
            every_s: seconds between lines.
            console: where a bar may go; lines are logged where it is none or no terminal.
        """
        self._max_tokens = max_tokens
        self._every_s = every_s
        self._look: Look = dict
        self._seen: Mapping[str, Any] = {}
        self._shown: str = ""
        self._stopped = threading.Event()
        self._bar: RichProgress | None = None
        if console is not None and console.is_terminal:
            columns = (BarColumn(bar_width=24), TaskProgressColumn(), TimeElapsedColumn())
            figures = TextColumn("{task.fields[figures]}")
            self._bar = RichProgress(*columns, figures, console=console)
            self._task = self._bar.add_task("tokens", total=max_tokens, figures="starting")
        self._thread = threading.Thread(target=self._run, name="train-progress", daemon=True)

    def watch(self, look: Look) -> None:
        """Look at the workers' figures from now on: step, tokens, those of `SHOWN`, held-out ones."""
        self._look = look

    def line(self) -> str:
        """The state as key=value."""
        return " ".join(["train", *(f"{name}={value}" for name, value in self._figures().items())])

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        self._seen = self._look() or self._seen
        self._show()
        if self._bar is not None:
            self._bar.stop()

    def _figures(self) -> dict[str, str]:
        seen = self._seen
        tokens = int(seen.get("tokens", 0))
        figures = {"step": f"{seen.get('step', 0):.0f}", "tokens": f"{tokens}/{self._max_tokens}"}
        figures |= {name: f"{seen[name]:.4g}" for name in SHOWN if name in seen}
        if speed := seen.get("tokens_per_s"):
            figures["eta"] = show_duration(max(0.0, (self._max_tokens - tokens) / speed))
        held_out = {"held_out_loss": "loss", "acceptance_length": "acceptance_length"}
        for name, its in held_out.items():
            if its in seen.get("held_out", {}):
                figures[name] = f"{seen['held_out'][its]:.4g}"
        return figures

    def _show(self) -> None:
        if self._bar is not None:
            words = " · ".join(f"{name.replace('_', ' ')} {value}" for name, value in self._figures().items())
            self._bar.update(self._task, completed=self._seen.get("tokens", 0), figures=words)
        elif (line := self.line()) != self._shown:
            self._shown = line
            logger.info(line)

    def _run(self) -> None:
        line_at = time.monotonic() + self._every_s
        while not self._stopped.wait(min(LOOK_S, self._every_s)):
            self._seen = self._look() or self._seen
            if self._bar is not None:
                self._show()
            elif time.monotonic() >= line_at:
                line_at += self._every_s
                self._show()
