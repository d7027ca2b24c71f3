"""The engine: requests in, completions out, in steps that many sequences share."""

import itertools
import time
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from dataclasses import replace
from typing import Protocol

import numpy as np

from orthrus_core.engine.ahead import launch_both, standing_drafts
from orthrus_core.engine.flight import Flight, launch
from orthrus_core.engine.layout import StepLayout, Work
from orthrus_core.engine.runner import ModelRunner
from orthrus_core.engine.scheduler import Scheduler
from orthrus_core.engine.sequence import NO_SLOT, Completion, Sequence
from orthrus_core.engine.stats import EngineStats
from orthrus_core.engine.step import Chooser, DiffusionDrafts, DraftSource, Greedy
from orthrus_core.engine.stop import cut_at_stop
from orthrus_core.engine.verdict import Verdict
from orthrus_core.request import Request


class Admission(Protocol):
    """Turns requests into sequences and says what is wrong with those that cannot run."""

    def new_sequence(self, request_id: int, request: Request) -> Sequence:
        """Return the request as a sequence that has not run."""
        ...

    def reason_to_reject(self, sequence: Sequence) -> str | None:
        """Return why the sequence cannot run; None if it can."""
        ...


class Observer(Protocol):
    """Watches the steps of an engine: counters, alarms."""

    def saw(self, step: StepLayout, verdicts: SequenceOf[Verdict]) -> None:
        """A step ran; nothing of it is emitted yet, and nothing will be if this raises."""
        ...


class EngineCore:
    """Decodes many requests over one model and one paged cache, step by step.

    Attributes:
        runner: runs forwards.
        scheduler: holds the sequences.
        cache: keys and values.
        stats: counters since the start.
        runs_ahead: whether a step is launched before the one before it has landed, where it depends on that
            one's tokens alone; so it is on a device that works while the host does.
    """

    def __init__(
        self,
        runner: ModelRunner,
        scheduler: Scheduler,
        admission: Admission,
        *,
        max_context: int,
        drafts: DraftSource | None = None,
        chooser: Callable[[SequenceOf[Work]], Chooser] = lambda works: Greedy(),
        observers: SequenceOf[Observer] = (),
    ):
        """Put the parts together.

        Args:
            runner: runs the model.
            scheduler: over the page tables of the runner.
            admission: of requests.
            max_context: most tokens of a sequence.
            drafts: proposes tokens; None: the diffusion view.
            chooser: makes the chooser of a step.
            observers: told of every step, in this order.
        """
        self.runner = runner
        self.scheduler = scheduler
        self._admission = admission
        self._max_context = max_context
        self._drafts = drafts or DiffusionDrafts()
        self._chooser = chooser
        self._observers = tuple(observers)
        self.runs_ahead = runner.device.type == "cuda"
        self._flight: Flight | None = None  # launched ahead
        self._ids = itertools.count()
        self._rejected: list[Completion] = []
        self.cache = runner.cache
        self.stats = EngineStats()

    def submit(self, request: Request) -> int:
        """Queue a request and return its id.

        A request that cannot run does not raise: it comes back from the next `step` with finish_reason
        "error".
        """
        request_id = next(self._ids)
        sequence = self._admission.new_sequence(request_id, request)
        error = self._admission.reason_to_reject(sequence)
        if error is None:
            self.scheduler.add(sequence)
        else:
            self._rejected.append(sequence.complete("error", error))
        return request_id

    @property
    def has_work(self) -> bool:
        """Whether `step` has anything to do or to return."""
        return bool(self._rejected or self.scheduler.num_sequences)

    def cancel(self, request_id: int) -> bool:
        """Drop a request that has not finished; whether there was one."""
        return self.scheduler.remove(request_id)

    def forget_prompts(self) -> None:
        """Share nothing with requests from before, so that repeated work costs the same again."""
        self.runner.tables.pool.forget_prefixes()
        self.scheduler.forget_texts()

    def step(self) -> list[Completion]:
        """Advance all running sequences by one step and return the requests that ended.

        Raises:
            EngineError: the logits of all of them are NaN or infinite, and not for one prompt's sake.
        """
        started_at = time.perf_counter()
        finished, self._rejected = self._rejected, []
        flight = self._flight or self._launch(self.scheduler.plan())
        self._flight = None
        if flight is not None:
            following = self._launch_ahead(flight) if self.runs_ahead else None
            finished += self._land(flight, started_at)
            self._flight = following
        self.stats.busy_s += time.perf_counter() - started_at
        return finished

    def _launch(self, step: StepLayout) -> Flight | None:
        """Draft where works ask for it and have no drafts yet, and launch the verify forward."""
        if not step.works:
            return None
        started_at, draft_ids = time.perf_counter(), None
        chooser = self._chooser(step.works)
        if step.draft_budget:
            draft_ids = self._drafts.propose(self.runner, step, chooser)
        drafted_at = time.perf_counter()
        if step.blocks is not None:
            flight = launch_both(self.runner, step, chooser)
        else:
            flight = launch(self.runner, step, chooser, draft_ids)
        launch_s = time.perf_counter() - drafted_at
        return replace(flight, draft_s=drafted_at - started_at, launch_s=launch_s)

    def _launch_ahead(self, flight: Flight) -> Flight | None:
        """Launch the step after one that has not landed, if it can be planned by now."""
        step = self.scheduler.plan_ahead(flight.step)
        if step is None or not step.works:
            return None
        launched_at = time.perf_counter()
        following = launch(self.runner, step, self._chooser(step.works), behind=flight)
        return replace(following, launch_s=time.perf_counter() - launched_at)

    def _land(self, flight: Flight, started_at: float) -> list[Completion]:
        """Wait for a step's outcome and commit it; return the completions of those that ended."""
        landing_at, step = time.perf_counter(), flight.step
        verdicts, proposed_ids = flight.land(self.runner)
        verify_s = flight.launch_s + time.perf_counter() - landing_at
        drafts = standing_drafts(step, verdicts, proposed_ids)
        is_here = [work.sequence.slot != NO_SLOT for work in step.works]
        if not all(is_here):  # some ended while this was in flight
            step = StepLayout.of(list(itertools.compress(step.works, is_here)))
            verdicts = list(itertools.compress(verdicts, is_here))
        if not verdicts:
            return []
        for observer in self._observers:
            observer.saw(step, verdicts)
        num_accepted = np.zeros_like(step.num_drafts)
        if step.num_drafts.any():
            num_accepted += [verdict.num_accepted for verdict in verdicts]
        self.scheduler.observe(step, num_accepted, seconds=time.perf_counter() - started_at)
        self.stats.count_step(step, flight.draft_s, verify_s)
        if step.num_drafts.any():
            self.stats.count_drafts(step, num_accepted)
        completions = map(self._commit, step.works, verdicts)
        finished = [completion for completion in completions if completion is not None]
        for line, draft_ids in drafts.items():
            step.works[line].sequence.draft_ids = draft_ids
        self.scheduler.index_prompts(step.works)
        return finished

    def _commit(self, work: Work, verdict: Verdict) -> Completion | None:
        """Append what the step emitted to its sequence; return the completion if it ended."""
        sequence, num_prefill, token_ids = work.sequence, work.num_prefill, verdict.token_ids
        constraint, broken = sequence.constraint, verdict.broken_row
        first_position = sequence.num_committed
        if num_prefill:
            if verdict.prompt_logprobs:
                sequence.score(first_position, verdict.prompt_logprobs)
            sequence.num_committed += num_prefill if broken is None else min(num_prefill, broken)
        if not work.has_anchor and broken is None:
            return None
        if constraint is not None:
            token_ids = token_ids[: constraint.advance(token_ids)]
        length = len(sequence.token_ids)
        emitted, reason = cut_at_stop(
            token_ids,
            stop_ids=sequence.stop_ids,
            length_left=sequence.most_tokens - length,
            context_left=self._max_context - length,
            stop_strings=sequence.stop_strings,
        )
        error = constraint.error if constraint is not None and reason is None else None
        if error is None and reason is None and broken is not None:
            error = self._break_off(sequence, first_position + broken)
        sequence.emit(emitted, verdict)
        if not num_prefill:
            sequence.stats.count_block(work, verdict.num_accepted, len(emitted))
        self.stats.count_tokens(len(emitted), is_block=sequence.drafts and not num_prefill)
        if sequence.on_tokens is not None and emitted:
            sequence.on_tokens(emitted)
        if reason is None and error is None:
            return None
        self.scheduler.finish(sequence)
        return sequence.complete(reason or "error", error)

    def _break_off(self, sequence: Sequence, position: int) -> str:
        """Return why no token follows a position whose logits are NaN or infinite.

        No page from there on is shared or indexed, since those hold sound rows only; they are erased.
        """
        self.runner.erase(self.scheduler.pages_from(sequence, position))
        return (
            f"the logits after position {position} are NaN or infinite, so no token can be chosen there: the "
            "model overflows on this text in its dtype; try bfloat16 or float32, or leave the prompt out"
        )

    def run(self, requests: SequenceOf[Request]) -> list[Completion]:
        """Submit requests and step until all of them ended; completions in the order given."""
        ids = [self.submit(request) for request in requests]
        done: dict[int, Completion] = {}
        while len(done) < len(ids):
            done.update((completion.request_id, completion) for completion in self.step())
        return [done[request_id] for request_id in ids]
