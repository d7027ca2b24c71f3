"""The sampled audit: some rows of a run are decoded again in plain AR, and both texts are compared.

An actor collects the rows that were chosen and decodes them again when its last call in flight has nothing
else to do, whole batches at a time: one row among drafting ones would cost as many steps as it has tokens.
"""

import asyncio
import contextlib
import time
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

from orthrus_core.engine.config import EngineConfig
from orthrus_core.engine.sequence import Completion
from orthrus_core.engine.stats import CompletionStats
from orthrus_core.engine.stop import FinishReason
from orthrus_core.request import Request
from pipelines.generate.audit.plan import AuditPlan
from pipelines.generate.audit.speed import SpeedSample, time_pairs
from pipelines.generate.engine.conversation import turns_of
from pipelines.generate.engine.thread import EngineThread

WAVES = 16  # audit rows in the engine at once, in batches of max_sequences: new work waits for no more
MOST_NAMED = 20  # mismatches that one call describes; all are counted


@dataclass
class Findings:
    """What was found since the last call that handed findings over.

    Attributes:
        selected: rows chosen, of this call's unit; each turn of a row counts.
        skipped: of them, rows that ended in an error or cannot be compared.
        compared: rows decoded again, of earlier units too.
        same_tokens, same_logprobs, identical: of them, with the same token ids, with the same bits of every
            token's log-probability, and with both and the same finish reason.
        tokens: completion tokens of compared rows.
        mismatches: {id, sample, shard, unit, first_token, written, plain_ar, reason}; the first few.
        seconds: that calls waited for all of this.
        speed: measurements of `audit.speed`.
    """

    selected: int = 0
    skipped: int = 0
    compared: int = 0
    same_tokens: int = 0
    same_logprobs: int = 0
    identical: int = 0
    tokens: int = 0
    seconds: float = 0.0
    mismatches: list[dict[str, Any]] = field(default_factory=list)
    speed: list[SpeedSample] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As json in a unit's footer."""
        return {**vars(self), "speed": [vars(sample) for sample in self.speed]}


@dataclass(frozen=True)
class _Row:
    """A finished row that is to be decoded again, packed: there may be thousands until the tail of a run."""

    name: dict[str, Any]
    request: Request
    token_ids: array
    logprobs: array | None
    finish_reason: FinishReason

    @staticmethod
    def pack(name: dict[str, Any], request: Request, completion: Completion) -> "_Row":
        return _Row(
            name,
            replace(request, prompt_ids=array("i", request.prompt_ids), drafts=False, followed=False),
            array("i", completion.token_ids),
            None if completion.logprobs is None else array("d", completion.logprobs),
            completion.finish_reason,
        )

    def completion(self) -> Completion:
        return Completion(
            -1,
            list(self.token_ids),
            self.finish_reason,
            None,
            CompletionStats(),
            logprobs=None if self.logprobs is None else list(self.logprobs),
        )


class Auditor:
    """The audit of one actor; used on its event loop only."""

    def __init__(self, plan: AuditPlan, engine: EngineThread, decode: EngineConfig):
        self._plan = plan
        self._engine = engine
        self._decode = decode
        self._num_calls = 0
        self._arrival: asyncio.Event | None = None
        self._backlog: list[_Row] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._findings = Findings()
        self._samples: deque[Request] = deque(maxlen=decode.max_sequences)
        self._is_timed = False

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """Count a call in flight; others stop waiting for their audit, since there is work."""
        self._num_calls += 1
        if self._arrival is not None:
            self._arrival.set()
        try:
            yield
        finally:
            self._num_calls -= 1

    def prepare(self, shard: int, unit: int, requests: Sequence[Request]) -> list[Request]:
        """Ask for the log-probabilities of the requests that will be compared."""
        return [
            _with_logprobs(request) if self._plan.chooses(shard, unit, place) else request
            for place, request in enumerate(requests)
        ]

    async def finish(
        self,
        shard: int,
        unit: int,
        ids: Sequence[str],
        requests: Sequence[Request],
        completions: Sequence[Completion],
        *,
        busy_s: float,
    ) -> dict[str, Any]:
        """Take in a unit; where no other call is in flight, decode again what was chosen so far.

        Args:
            shard, unit: of the requests.
            ids: of their rows.
            requests: as `prepare` gave them.
            completions: of the requests.
            busy_s: seconds that the engine has worked, of which the measurement of speed takes a share.
        Returns:
            Findings that no call has reported yet, of this unit or earlier ones.
        """
        if not self._plan.threshold:
            return {}
        started_at = time.perf_counter()
        self._take_in(shard, unit, ids, requests, completions)
        await self._work_off()
        if self._num_calls == 1 and self._samples and not self._is_timed:
            await self._time(busy_s)
            await self._work_off()  # what calls that came and went meanwhile have left
        findings, self._findings = self._findings, Findings()
        findings.seconds = time.perf_counter() - started_at
        return findings.to_dict()

    def _take_in(
        self,
        shard: int,
        unit: int,
        ids: Sequence[str],
        requests: Sequence[Request],
        completions: Sequence[Completion],
    ) -> None:
        for place, (row_id, request, completion) in enumerate(zip(ids, requests, completions, strict=True)):
            if not self._plan.chooses(shard, unit, place):
                continue
            name = {"id": row_id, "sample": request.sample, "shard": shard, "unit": unit}
            is_drawn = self._plan.is_drawn and request.params.temperature > 0
            for turn in turns_of(request, completion):
                self._findings.selected += 1
                if is_drawn or turn.completion.error is not None:
                    self._findings.skipped += 1
                else:
                    self._backlog.append(_Row.pack(name, turn.request, turn.completion))

    async def _time(self, busy_s: float) -> None:
        """Measure the speed of both modes; new work cuts it short, and then a later call does it."""
        sample = await time_pairs(
            self._engine, list(self._samples), busy_s=busy_s, is_alone=lambda: self._num_calls == 1
        )
        self._is_timed = self._num_calls == 1
        if sample is not None:
            self._findings.speed.append(sample)

    async def _work_off(self) -> None:
        """Decode the backlog again, if no other call is in flight; one that comes ends the waiting only."""
        while (self._backlog or self._tasks) and self._num_calls == 1:
            if not self._tasks:
                count = WAVES * self._decode.max_sequences
                rows, self._backlog = self._backlog[:count], self._backlog[count:]
                self._tasks.add(asyncio.ensure_future(self._decode_again(rows)))
            self._arrival = asyncio.Event()
            arrival = asyncio.ensure_future(self._arrival.wait())
            done, _ = await asyncio.wait({*self._tasks, arrival}, return_when=asyncio.FIRST_COMPLETED)
            arrival.cancel()
            for task in done & self._tasks:
                self._tasks.discard(task)
                task.result()
        self._tasks = {task for task in self._tasks if not task.done()}

    async def _decode_again(self, rows: Sequence[_Row]) -> None:
        completions, _ = await asyncio.wrap_future(self._engine.submit([row.request for row in rows]))
        for row, completion in zip(rows, completions, strict=True):
            compare(self._findings, row.name, row.completion(), completion)
            self._samples.append(row.request)


def compare(findings: Findings, name: dict[str, Any], first: Completion, again: Completion) -> None:
    """Count a row that was decoded again, and describe it where it differs.

    Args:
        findings: what is counted, in place.
        name: of the row.
        first: as written; a copy of another row may lack log-probabilities, and then tokens count.
        again: with log-probabilities, decoded in plain AR.
    """
    has_tokens = first.token_ids == again.token_ids
    has_logprobs = first.logprobs == again.logprobs
    is_same = has_tokens and first.finish_reason == again.finish_reason
    is_same = is_same and (has_logprobs or first.logprobs is None)
    findings.compared += 1
    findings.same_tokens += has_tokens
    findings.same_logprobs += has_logprobs
    findings.identical += is_same
    findings.tokens += len(first.token_ids)
    if not is_same and len(findings.mismatches) < MOST_NAMED:
        findings.mismatches.append(name | describe(first, again))


def describe(first: Completion, again: Completion) -> dict[str, Any]:
    """Where two completions of one row part: place of the token from 0, ids (None: there is none), why."""
    place = first_difference(first.token_ids, again.token_ids)
    reason = "token"
    if place is None:
        place = first_difference(first.logprobs or [], again.logprobs or [])
        reason = "log-probability" if place is not None else f"finish_reason {again.finish_reason}"
    written, plain = (
        None if place is None or place >= len(ids) else ids[place]
        for ids in (first.token_ids, again.token_ids)
    )
    return {"first_token": place, "written": written, "plain_ar": plain, "reason": reason}


def first_difference(one: Sequence[Any], other: Sequence[Any]) -> int | None:
    """The first place where two lists differ; the end of the shorter one counts. None: they are the same."""
    pairs = enumerate(zip_longest(one, other, fillvalue=object()))
    return next((place for place, (a, b) in pairs if a != b), None)


def _with_logprobs(request: Request) -> Request:
    params = request.params
    return replace(request, params=params.model_copy(update={"logprobs": params.logprobs or True}))
