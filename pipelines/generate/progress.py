"""How far a run is: a bar on a terminal, a key=value line every few seconds elsewhere."""

import logging
import threading
import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

logger = logging.getLogger(__name__)


class Progress:
    """Counts committed units and shows them; a context manager around the run."""

    def __init__(self, *, total_rows: int, done_rows: int, every_s: float, console: Console | None = None):
        """Set up without starting.

        Args:
            total_rows, done_rows: of the whole job, and committed by earlier runs.
            every_s: seconds between lines.
            console: where a bar may go; lines are logged where it is none or no terminal.
        """
        self._total_rows = total_rows
        self._rows = self._before = done_rows
        self._counts: dict[str, int] = {}
        self._every_s = every_s
        self._stopped = threading.Event()
        self._started_at = time.perf_counter()
        self._bar: RichProgress | None = None
        if console is not None and console.is_terminal:
            columns = (TextColumn("rows"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._bar = RichProgress(*columns, TextColumn("{task.fields[figures]}"), console=console)
            self._task = self._bar.add_task("rows", total=total_rows, completed=done_rows, figures="starting")
        self._thread = threading.Thread(target=self._log_lines, name="progress", daemon=True)

    def add(self, summary: dict[str, Any]) -> None:
        """Count a committed unit."""
        self._rows += summary["rows"]
        for name, value in summary["counts"].items():
            self._counts[name] = self._counts.get(name, 0) + value
        if self._bar is not None:
            self._bar.update(self._task, completed=self._rows, figures=self._figures())

    def note(self, text: str) -> None:
        """Tell the operator something at once."""
        if self._bar is not None:
            self._bar.console.print(text, style="bold yellow")
        else:
            logger.warning(text)

    def line(self) -> str:
        """The state as key=value."""
        elapsed_s = time.perf_counter() - self._started_at
        return f"progress rows={self._rows}/{self._total_rows} {self._figures()} elapsed_s={elapsed_s:.0f}"

    def __enter__(self) -> Self:
        self._started_at = time.perf_counter()
        if self._bar is not None:
            self._bar.start()
        else:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        if self._bar is not None:
            self._bar.stop()
        else:
            logger.info(self.line())

    def _figures(self) -> str:
        if self._rows == self._before:
            return "tokens=0 errors=0"
        tokens, steps = self._counts["completion_tokens"], self._counts["steps"]
        speed = tokens / max(1e-9, time.perf_counter() - self._started_at)
        length = self._counts["step_tokens"] / steps if steps else 0.0
        return (
            f"tokens={tokens} errors={self._counts['errors']} tokens_per_s={speed:.1f} "
            f"acceptance_length={length:.2f}"
        )

    def _log_lines(self) -> None:
        while not self._stopped.wait(self._every_s):
            logger.info(self.line())
