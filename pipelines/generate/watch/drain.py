"""Ending a run well: no further unit begins, those that engines are at work on are finished and committed.

The order of things: a signal sets `StopSignals.requested`; the driver tells the board; an actor that asks
the board for one more unit is refused and keeps the call open, so that nothing more is read or rendered; the
driver takes summaries until every unit that was begun is committed, and then ends the dataset. What is left
of the plan costs nothing, however much it is.
"""

import json
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Self

from pipelines.cluster.board import UnitKey
from pipelines.cluster.ray_data import Executions
from pipelines.command.signals import Interrupted
from pipelines.generate.write.sink import SUMMARY

if TYPE_CHECKING:
    from ray.data import Dataset

LOOK_S = 0.05  # between two looks at a dataset that is to end
TICK_S = 0.5  # between two looks of the driver at signals and board
START_S = 5.0  # for a dataset to start


class SummaryStream:
    """Runs a dataset in a thread, so that the driver's main thread can look at signals meanwhile."""

    def __init__(self, dataset: "Dataset"):
        self._dataset = dataset
        self._inbox: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="summaries", daemon=True)
        self.is_over = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End what is left of the dataset, and its actors; one that is only starting has to start first."""
        if self.is_over:
            return
        deadline = time.monotonic() + START_S
        while self._thread.is_alive() and not Executions.end() and time.monotonic() < deadline:
            self._thread.join(LOOK_S)

    def next(self, timeout_s: float) -> dict[str, Any] | None:
        """The summary of a committed unit; None if there is none yet, or `is_over`.

        Raises:
            Exception: what Ray raised for a stage.
        """
        try:
            kind, value = self._inbox.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if kind == "unit":
            return value
        self.is_over = True
        if kind == "error":
            raise value
        return None

    def _run(self) -> None:
        try:
            for batch in self._dataset.iter_batches(
                batch_size=None, batch_format="numpy", prefetch_batches=0
            ):
                for text in batch[SUMMARY]:
                    self._inbox.put(("unit", json.loads(text)))
        except BaseException as error:
            self._inbox.put(("error", error))
        else:
            self._inbox.put(("end", None))


class Drain:
    """Which units are committed, and whether all that were begun are, once a stop is asked for."""

    def __init__(
        self, ask: Callable[[], set[UnitKey] | None], limit_s: float, tell: Callable[[str], None] = print
    ):
        """Set up.

        Args:
            ask: lets no further unit begin; returns the units that were begun, None if unknown.
            limit_s: seconds to wait for those.
            tell: shows the operator a line.
        """
        self._ask = ask
        self._limit_s = limit_s
        self._tell = tell
        self._committed: set[UnitKey] = set()
        self._deadline: float | None = None
        self._asked_at = float("-inf")
        self.begun: set[UnitKey] = set()

    def add(self, unit: UnitKey) -> None:
        """A unit was committed."""
        self._committed.add(unit)

    @property
    def num_in_flight(self) -> int:
        """Units begun and not committed, as far as the driver knows."""
        return len(self.begun - self._committed)

    def is_over(self) -> bool:
        """Begin to drain if that has not happened; whether nothing is in flight any more.

        Raises:
            Interrupted: it took longer than it may.
        """
        now = time.monotonic()
        if self._deadline is None:
            self._deadline = now + self._limit_s
            self._tell(
                f"stopping: units in progress are finished first, for at most {self._limit_s:g} s "
                "(run.drain_s); a second signal stops at once"
            )
        if now - self._asked_at >= TICK_S:
            self._asked_at = now
            begun = self._ask()
            self.begun |= begun or set()
            if begun is not None and not self.num_in_flight:
                return True
        elif self.begun and not self.num_in_flight:
            return True
        if now >= self._deadline:
            raise Interrupted(f"run.drain_s of {self._limit_s:g} s are over, stopped at once")
        return False


def summaries(
    dataset: "Dataset", drain: Drain, requested: threading.Event
) -> Iterator[dict[str, Any] | None]:
    """Summaries of committed units until the dataset or a drain ends; None in between, at every tick."""
    with SummaryStream(dataset) as stream:
        while not (requested.is_set() and drain.is_over()):
            summary = stream.next(TICK_S)
            if stream.is_over:
                return
            if summary is not None:
                drain.add((summary["shard"], summary["unit"]))
            yield summary
