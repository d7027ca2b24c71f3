"""How far a run is: a bar on a terminal, a key=value line every few seconds elsewhere."""

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from pipelines.generate.speed import SpeedWindow, show_duration

logger = logging.getLogger(__name__)

LOOK_S = 1.0  # between two looks at the engines
FIRST_LINE_S = 2.0  # so soon after the start comes the first line

Look = Callable[[], dict[str, Any]]


class Progress:
    """Counts committed units, looks at the engines in between, and shows both; a context manager.

    Rows, errors and acceptance length are those of committed units. Tokens and speed also count what the
    engines have written of units in progress. Rows of earlier runs count in rows only.
    """

    def __init__(self, *, total_rows: int, done_rows: int, every_s: float, console: Console | None = None):
        """Set up without starting.

        Args:
            total_rows, done_rows: of the whole job, and committed by earlier runs.
            every_s: seconds between lines.
            console: where a bar may go; lines are logged where it is none or no terminal.
        """
        self._total_rows = total_rows
        self._rows = self._before = done_rows
        self._units = 0
        self._counts: dict[str, int] = {}
        self._look: Look = dict
        self._seen: dict[str, Any] = {}
        self._speed = SpeedWindow()
        self._every_s = every_s
        self._stopped = threading.Event()
        self._started_at = time.perf_counter()
        self._bar: RichProgress | None = None
        if console is not None and console.is_terminal:
            columns = (
                BarColumn(bar_width=24),
                TaskProgressColumn(),
                MofNCompleteColumn(),
                TextColumn("rows"),
            )
            figures = TextColumn("{task.fields[figures]}")
            self._bar = RichProgress(*columns, TimeElapsedColumn(), figures, console=console)
            self._task = self._bar.add_task("rows", total=total_rows, completed=done_rows, figures="starting")
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def watch(self, look: Look) -> None:
        """Look at the engines from now on.

        Args:
            look: gives {begun: units begun by this run, actors: {name: figures}}, as `board.Board.look` does.
        """
        self._look = look

    def add(self, summary: dict[str, Any]) -> None:
        """Count a committed unit."""
        self._rows += summary.get("rows_in", summary["rows"])
        self._units += 1
        for name, value in summary["counts"].items():
            self._counts[name] = self._counts.get(name, 0) + value
        self._show_bar()

    def note(self, text: str) -> None:
        """Tell the operator something at once."""
        if self._bar is not None:
            self._bar.console.print(text, style="bold yellow")
        else:
            logger.warning(text)

    def line(self) -> str:
        """The state as key=value."""
        elapsed_s = time.perf_counter() - self._started_at
        figures = " ".join(f"{name}={value}" for name, value in self._figures().items())
        return f"progress rows={self._rows}/{self._total_rows} {figures} elapsed_s={elapsed_s:.0f}"

    def __enter__(self) -> Self:
        self._started_at = time.perf_counter()
        if self._bar is not None:
            self._bar.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._seen = {}
        if self._bar is not None:
            self._show_bar()
            self._bar.stop()
        else:
            logger.info(self.line())

    def _figures(self) -> dict[str, str]:
        tokens, steps = self._tokens(), self._counts.get("steps", 0)
        speed = self._speed.per_s()
        left_s = self._seconds_left(tokens, speed)
        figures = {"tokens": f"{tokens:.0f}", "errors": str(self._counts.get("errors", 0))}
        if speed is not None:
            figures["tokens_per_s"] = f"{speed:.1f}"
        if steps:
            figures["acceptance_length"] = f"{self._counts['step_tokens'] / steps:.2f}"
        figures["eta"] = "-" if left_s is None else show_duration(left_s)
        if "actors" in self._seen:
            actors = self._seen["actors"]
            ready = sum(actor.get("state") == "ready" for actor in actors.values())
            figures["units_in_flight"] = str(max(0, self._seen["begun"] - self._units))
            figures["engines_ready"] = str(ready)
            figures["engines_loading"] = str(len(actors) - ready)
        return figures

    def _tokens(self) -> float:
        """Tokens written by this run: what the engines say, who are ahead of the committed units."""
        live = sum(actor.get("tokens", 0.0) for actor in self._seen.get("actors", {}).values())
        return max(live, self._counts.get("completion_tokens", 0))

    def _seconds_left(self, tokens: float, speed: float | None) -> float | None:
        """Seconds to the end at this speed, if the rows left are as long as those committed."""
        done = self._rows - self._before
        if not done or not speed:
            return None
        committed = self._counts.get("completion_tokens", 0)
        left = (self._total_rows - self._rows) * committed / done - (tokens - committed)
        return max(0.0, left) / speed

    def _show_bar(self) -> None:
        if self._bar is not None:
            shown = self._figures()
            words = [f"{name.replace('_', ' ')} {value}" for name, value in shown.items()]
            self._bar.update(self._task, completed=self._rows, figures=" · ".join(words))

    def _run(self) -> None:
        line_at = time.monotonic() + min(FIRST_LINE_S, self._every_s)
        while not self._stopped.wait(min(LOOK_S, self._every_s)):
            self._seen = self._look() or self._seen
            self._speed.add(self._tokens())
            self._show_bar()
            if self._bar is None and time.monotonic() >= line_at:
                line_at += self._every_s
                logger.info(self.line())
