"""How far a run is: a bar on a terminal, a key=value line every few seconds elsewhere."""

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from pipelines.command.wording import count_of, show_duration
from pipelines.generate.write.unit_facts import add_into

logger = logging.getLogger(__name__)

LOOK_S = 1.0  # between two looks at the engines
WINDOW_S = 60.0  # of the speed
FIRST_LINE_S = 2.0  # so soon after the start comes the first line

# How a bar says what a line says as key=value: noun of a count, and what follows it.
COUNTS = {
    "tokens": ("token", ""),
    "errors": ("error", ""),
    "units_in_flight": ("unit", " in work"),
    "engines_ready": ("engine", " ready"),
}
WORDS = {
    "tokens_per_s": "{} tokens/s",
    "acceptance_length": "{} tokens/step in finished units",
    "engines_loading": "{} loading",
}

Look = Callable[[], dict[str, Any]]


class Bar(RichProgress):
    """Two lines: rows, share and time left beside a bar that takes what room is left; figures below."""

    figures = ""
    _logs: tuple[tuple[logging.StreamHandler[Any], Any], ...] = ()

    def start(self) -> None:
        """Show it; what is logged to a terminal comes above it from now on."""
        super().start()
        handlers = [one for one in logging.getLogger().handlers if isinstance(one, logging.StreamHandler)]
        self._logs = tuple((one, one.stream) for one in handlers if one.stream.isatty())
        for handler, _ in self._logs:
            handler.setStream(sys.stderr)

    def stop(self) -> None:
        """Leave it as it stands."""
        for handler, stream in self._logs:
            handler.setStream(stream)
        super().stop()

    def get_renderables(self) -> Iterable[RenderableType]:
        """The lines, the second one cut where the terminal ends."""
        yield from super().get_renderables()
        yield Text(self.figures, style="dim", no_wrap=True, overflow="ellipsis")


class Progress:
    """Counts committed units, looks at the engines in between, and shows both; a context manager.

    Errors and acceptance length are those of committed units. Rows, tokens and speed also count what the
    engines have finished and written of units in progress; the audit's tokens count nowhere. Rows of earlier
    runs count in rows only.
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
        self._most_rows = done_rows
        self._rows_of: dict[str, int] = {}  # committed by each actor
        self._units = 0
        self._counts: dict[str, int] = {}
        self._look: Look = dict
        self._seen: dict[str, Any] = {}
        self._speed = SpeedWindow()
        self._every_s = every_s
        self._stopped = threading.Event()
        self._started_at = time.perf_counter()
        self._bar: Bar | None = None
        if console is not None and console.is_terminal:
            columns = (
                MofNCompleteColumn(),
                TextColumn("rows"),
                TaskProgressColumn(),
                TextColumn("eta {task.fields[eta]}"),
                BarColumn(bar_width=None),
                TimeElapsedColumn(),
            )
            self._bar = Bar(*columns, console=console, expand=True)
            self._task = self._bar.add_task("rows", total=total_rows, completed=done_rows, eta="-")
            self._bar.figures = "starting"
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def watch(self, look: Look) -> None:
        """Look at the engines from now on.

        Args:
            look: gives {begun: units begun by this run, actors: {name: figures}}, as `board.Board.look` does;
            the figures as `metrics.live` makes them.
        """
        self._look = look

    def add(self, summary: dict[str, Any]) -> None:
        """Count a committed unit."""
        rows, actor = summary.get("rows_in", summary["rows"]), summary.get("actor", "")
        self._rows += rows
        self._rows_of[actor] = self._rows_of.get(actor, 0) + rows
        self._units += 1
        add_into(self._counts, summary["counts"])
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
        return (
            f"progress rows={self._num_rows()}/{self._total_rows} "
            f"percent={100 * self._num_rows() / max(1, self._total_rows):.0f} eta={self._eta()} {figures} "
            f"elapsed_s={elapsed_s:.0f}"
        )

    def __enter__(self) -> Self:
        self._started_at = time.perf_counter()
        if self._bar is not None:
            self._bar.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._seen, self._most_rows = {}, self._rows
        if self._bar is not None:
            self._show_bar()
            self._bar.stop()
        else:
            logger.info(self.line())

    def _figures(self) -> dict[str, str]:
        """What is shown after rows and time left, what matters most first."""
        steps, speed = self._counts.get("steps", 0), self._speed.per_s()
        figures = {} if speed is None else {"tokens_per_s": f"{speed:.1f}"}
        figures |= {"tokens": f"{self._tokens():.0f}", "errors": str(self._counts.get("errors", 0))}
        if steps:
            figures["acceptance_length"] = f"{self._counts['step_tokens'] / steps:.2f}"
        if "actors" in self._seen:
            actors = self._seen["actors"]
            ready = sum(actor.get("state") == "ready" for actor in actors.values())
            figures["units_in_flight"] = str(max(0, self._seen["begun"] - self._units))
            figures["engines_ready"] = str(ready)
            figures["engines_loading"] = str(len(actors) - ready)
        return figures

    def _num_rows(self) -> int:
        """Rows that are committed, and those that are finished in units in progress."""
        live = sum(
            max(0, int(figures.get("rows", 0)) - self._rows_of.get(actor, 0))
            for actor, figures in self._seen.get("actors", {}).items()
        )
        self._most_rows = min(self._total_rows, max(self._most_rows, self._rows + live))
        return self._most_rows

    def _tokens(self) -> float:
        """Tokens written by this run: what the engines say, who are ahead of the committed units."""
        live = sum(actor.get("tokens", 0.0) for actor in self._seen.get("actors", {}).values())
        return max(live, self._counts.get("completion_tokens", 0))

    def _eta(self) -> str:
        """Time to the last row at this speed, if the rows left are as long as those finished.

        All rows finished and not all units committed: their audit runs, or they are being written.
        """
        rows, speed = self._num_rows(), self._speed.per_s()
        if rows == self._total_rows:
            return "0s" if self._rows == rows else "audit"
        if rows == self._before or not speed:
            return "-"
        tokens, done = self._tokens(), self._rows - self._before
        of_done = self._counts.get("completion_tokens", 0) if done else tokens
        left = (self._total_rows - self._before) * of_done / (done or rows - self._before) - tokens
        return show_duration(max(0.0, left) / speed)

    def _show_bar(self) -> None:
        if self._bar is not None:
            self._bar.figures = " · ".join(_words(name, value) for name, value in self._figures().items())
            self._bar.update(self._task, completed=self._num_rows(), eta=self._eta())

    def _run(self) -> None:
        line_at = time.monotonic() + min(FIRST_LINE_S, self._every_s)
        while not self._stopped.wait(min(LOOK_S, self._every_s)):
            self._seen = self._look() or self._seen
            self._speed.add(self._tokens())
            self._show_bar()
            if self._bar is None and time.monotonic() >= line_at:
                line_at += self._every_s
                logger.info(self.line())


def _words(name: str, value: str) -> str:
    """A figure as the bar shows it."""
    if name not in COUNTS:
        return WORDS[name].format(value)
    noun, what = COUNTS[name]
    return count_of(int(value), noun) + what


class SpeedWindow:
    """A count that grows, and how fast it did lately."""

    def __init__(self, window_s: float = WINDOW_S):
        self._window_s = window_s
        self._samples: deque[tuple[float, float]] = deque()  # (clock, count), oldest first

    def add(self, count: float, at_s: float | None = None) -> None:
        """Take the count as it stands; zeros before it begins to grow are no part of the speed.

        Args:
            at_s: on a clock that only goes forward; None: now.
        """
        now = time.monotonic() if at_s is None else at_s
        if count == 0:
            self._samples.clear()
        self._samples.append((now, count))
        while len(self._samples) > 2 and self._samples[1][0] <= now - self._window_s:
            self._samples.popleft()

    def per_s(self) -> float | None:
        """Growth per second within the window; None while there is none."""
        if len(self._samples) < 2:
            return None
        (first_at, first), (last_at, last) = self._samples[0], self._samples[-1]
        return (last - first) / (last_at - first_at) if last_at > first_at else None
