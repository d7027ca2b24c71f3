"""Generating identical requests once: those in flight are shared, finished ones are remembered.

A completion is a function of prompt, options, seed and sample, so a copy has the text that it would have got.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from orthrus_core.engine.sequence import Completion
from orthrus_core.request import Request

Batch = tuple[list[Completion], dict[str, Any]]
Submit = Callable[[Sequence[Request]], "Future[Batch]"]


@dataclass(frozen=True)
class SharedBatch:
    """What became of a unit's requests.

    Attributes:
        completions: in the order of the requests.
        report: the engine's.
        is_copy: of each request, whether another one was generated in its place.
    """

    completions: list[Completion]
    report: dict[str, Any]
    is_copy: list[bool]

    def put_back(self, order: Sequence[int]) -> "SharedBatch":
        """Return the batch as it was before its requests were put in this order of their places."""
        places = sorted(range(len(order)), key=order.__getitem__)
        return SharedBatch(
            [self.completions[place] for place in places],
            self.report,
            [self.is_copy[place] for place in places],
        )


class Deduplicator:
    """Stands before an engine; used by the calls of one event loop."""

    def __init__(self, submit: Submit, max_tokens: int):
        """Args: max_tokens is how many tokens of finished completions are kept; the oldest used go first."""
        self._submit = submit
        self._memo = CompletionMemo(max_tokens)
        self._flying: dict[bytes, tuple[Future[Batch], int]] = {}

    async def run(self, requests: Sequence[Request]) -> SharedBatch:
        """Complete requests, with as few of them as possible in the engine."""
        keys = [request_key(request) for request in requests]
        known: dict[bytes, Completion] = {}
        awaited: dict[bytes, tuple[Future[Batch], int]] = {}
        fresh: dict[bytes, int] = {}  # key to place in the requests
        for place, key in enumerate(keys):
            if key in fresh or key in awaited or key in known:
                continue
            if (completion := self._memo.get(key)) is not None:
                known[key] = completion
            elif key in self._flying:
                awaited[key] = self._flying[key]
            else:
                fresh[key] = place
        own, report = await self._generate({key: requests[place] for key, place in fresh.items()})
        known |= own
        for key, (future, index) in awaited.items():
            known[key] = (await asyncio.wrap_future(future))[0][index]
        is_copy = [fresh.get(key) != place for place, key in enumerate(keys)]
        return SharedBatch([known[key] for key in keys], report, is_copy)

    async def _generate(self, fresh: dict[bytes, Request]) -> tuple[dict[bytes, Completion], dict[str, Any]]:
        """Run requests that nobody has run; until they are done, others find them in flight."""
        future = self._submit(list(fresh.values()))
        self._flying |= {key: (future, index) for index, key in enumerate(fresh)}
        try:
            completions, report = await asyncio.wrap_future(future)
        finally:
            for key in fresh:
                del self._flying[key]
        done = dict(zip(fresh, completions, strict=True))
        for key, completion in done.items():
            self._memo.add(key, completion)
        return done, report


class CompletionMemo:
    """The completions used last, bounded by their tokens."""

    def __init__(self, max_tokens: int):
        self._max_tokens = max_tokens
        self._completions: OrderedDict[bytes, Completion] = OrderedDict()
        self.num_tokens = 0

    def add(self, key: bytes, completion: Completion) -> None:
        """Remember a completion; one with an error is not kept."""
        if completion.error is not None or key in self._completions:
            return
        self._completions[key] = completion
        self.num_tokens += _size(completion)
        while self.num_tokens > self._max_tokens:
            self.num_tokens -= _size(self._completions.popitem(last=False)[1])

    def get(self, key: bytes) -> Completion | None:
        """A completion that is remembered."""
        completion = self._completions.get(key)
        if completion is not None:
            self._completions.move_to_end(key)
        return completion


def request_key(request: Request) -> bytes:
    """Hash of all that a completion depends on; without a temperature that is neither seed nor sample.

    Whether log-probabilities are asked for is left out, since the audit asks for those of some rows; how many
    is not.
    """
    params, sample = request.params, request.sample
    params = params.model_copy(update={"logprobs": params.num_top_logprobs})
    if params.temperature == 0:
        params, sample = params.model_copy(update={"seed": 0}), 0
    text = f"{params.model_dump_json()}|{sample}|{','.join(map(str, request.prompt_ids))}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=24).digest()


def _size(completion: Completion) -> int:
    told = sum(map(len, completion.top_logprobs or ())) + len(completion.prompt_logprobs or ())
    return 1 + len(completion.token_ids) + told
