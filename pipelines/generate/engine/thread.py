"""An engine in a thread of its own, which many callers feed through futures."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from orthrus_core.engine.sequence import Completion
from orthrus_core.request import Request
from pipelines.generate.engine.watchdog import Watchdog


class EngineLike(Protocol):
    """What the actor needs of an engine."""

    @property
    def exactness(self) -> str:
        """Either "exact" or "unverified"."""

    @property
    def has_work(self) -> bool:
        """Whether `step` has anything to do."""

    def submit(self, request: Request) -> int:
        """Queue a request; returns its id."""

    def step(self) -> Sequence[Completion]:
        """One step for all running sequences; returns what finished."""

    def report(self) -> dict[str, Any]:
        """Figures since the start."""


@dataclass
class _Batch:
    """The requests of one unit on their way through the engine."""

    requests: Sequence[Request]
    future: "Future[tuple[list[Completion], dict[str, Any]]]"
    completions: dict[int, Completion]  # by place in `requests`
    forget_prompts: bool = False


class EngineThread:
    """Owns an engine: builds it, steps it, and resolves a future for each batch of requests."""

    def __init__(
        self,
        factory: Callable[[], EngineLike],
        on_broken: Callable[[BaseException], None],
        *,
        step_timeout_s: float | None = None,
        on_hung: Callable[[float], None] | None = None,
    ):
        """Build the engine in its thread and wait for it.

        Args:
            factory: called once, in the thread.
            on_broken: called when a step raises, which means that the engine can no longer be trusted.
            step_timeout_s: seconds that a step may take; the start is not counted. None: any time.
            on_hung: called with the seconds so far when a step takes longer.
        Raises:
            Exception: whatever the factory raises.
        """
        self._factory = factory
        self._on_broken = on_broken
        self._watchdog: Watchdog | None = None
        self._inbox: queue.SimpleQueue[_Batch] = queue.SimpleQueue()
        self._broken: BaseException | None = None
        self._places: dict[int, tuple[_Batch, int]] = {}
        self._num_submitted = self._num_finished = self._num_returned = 0  # one thread writes each
        started: Future[EngineLike] = Future()
        threading.Thread(target=self._run, args=(started,), name="engine", daemon=True).start()
        self._engine = started.result()
        self.exactness = self._engine.exactness
        if step_timeout_s is not None and on_hung is not None:
            self._watchdog = Watchdog(step_timeout_s, on_hung)

    def submit(
        self, requests: Sequence[Request], *, forget_prompts: bool = False
    ) -> "Future[tuple[list[Completion], dict[str, Any]]]":
        """Queue requests; the future gives their completions in order, and the engine's report.

        Args:
            forget_prompts: share no page with earlier prompts, so that repeated work costs the same again.
        """
        batch = _Batch(requests, Future(), {}, forget_prompts)
        self._num_submitted += sum(request.drafts for request in requests)
        self._inbox.put(batch)
        if self._broken is not None:
            self._fail(self._broken)
        return batch.future

    def report(self) -> dict[str, Any]:
        """The engine's figures as they stand; reads counters only, so that any thread may ask."""
        return self._engine.report()

    @property
    def num_unfinished(self) -> int:
        """Requests that have not come back, but for those of the audit, which have no drafts."""
        return self._num_submitted - self._num_finished

    @property
    def finished_share(self) -> float:
        """Of the requests of batches that have not come back, the share that is finished."""
        num_open = self._num_submitted - self._num_returned
        return (self._num_finished - self._num_returned) / num_open if num_open else 0.0

    def _run(self, started: "Future[EngineLike]") -> None:
        try:
            engine = self._factory()
        except BaseException as error:
            started.set_exception(error)
            return
        started.set_result(engine)
        try:
            while True:
                self._admit(engine)
                for completion in self._step(engine):
                    self._deliver(engine, completion)
        except BaseException as error:
            self._on_broken(error)
            self._broken = error
            self._fail(error)

    def _step(self, engine: EngineLike) -> Sequence[Completion]:
        """One step, under watch."""
        if self._watchdog is None:
            return engine.step()
        self._watchdog.begin()
        try:
            return engine.step()
        finally:
            self._watchdog.end()

    def _fail(self, error: BaseException) -> None:
        """Fail every batch that is in the engine or on its way to it."""
        batches = [batch for batch, _ in self._places.values()]
        self._places.clear()
        while not self._inbox.empty():
            batches.append(self._inbox.get())
        for batch in batches:
            if not batch.future.done():
                batch.future.set_exception(error)

    def _admit(self, engine: EngineLike) -> None:
        """Take in what waits; sleep only where there is nothing to step."""
        while not engine.has_work or not self._inbox.empty():
            batch = self._inbox.get()
            if batch.forget_prompts and hasattr(engine, "forget_prompts"):
                engine.forget_prompts()
            if not batch.requests:
                batch.future.set_result(([], engine.report()))
            for place, request in enumerate(batch.requests):
                self._places[engine.submit(request)] = (batch, place)

    def _deliver(self, engine: EngineLike, completion: Completion) -> None:
        batch, place = self._places.pop(completion.request_id)
        self._num_finished += batch.requests[place].drafts
        batch.completions[place] = completion
        if len(batch.completions) == len(batch.requests):
            self._num_returned += sum(request.drafts for request in batch.requests)
            ordered = [batch.completions[i] for i in range(len(batch.requests))]
            batch.future.set_result((ordered, engine.report()))
