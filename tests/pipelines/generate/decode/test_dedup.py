"""Identical requests: generated once, given to all."""

import asyncio
from concurrent.futures import Future

import pytest

from orthrus_core import Completion, Request, SamplingParams
from orthrus_core.engine.stats import CompletionStats
from pipelines.generate.decode.dedup import CompletionMemo, Deduplicator, request_key


class Desk:
    """Stands for the engine's thread: batches are answered when the test says so."""

    def __init__(self):
        self.batches = []

    def submit(self, requests):
        self.batches.append((list(requests), Future()))
        return self.batches[-1][1]

    def answer(self, number):
        requests, future = self.batches[number]
        future.set_result(([done(sum(request.prompt_ids)) for request in requests], {"busy_s": 0.0}))

    @property
    def prompts(self):
        return [[list(request.prompt_ids) for request in requests] for requests, _ in self.batches]


def done(number: int, error: str | None = None) -> Completion:
    return Completion(0, [number], "error" if error else "stop", error, CompletionStats())


def ask(*numbers):
    return [Request([number], SamplingParams()) for number in numbers]


def tokens(batch):
    return [completion.token_ids[0] for completion in batch.completions]


async def started(coroutine):
    """The coroutine as a task that has run until it waits."""
    task = asyncio.create_task(coroutine)
    await asyncio.sleep(0)
    return task


def play(scene):
    """Run a test of (desk, dedup) in an event loop."""

    def test():
        desk = Desk()
        asyncio.run(scene(desk, Deduplicator(desk.submit, 100)))

    test.__name__ = scene.__name__
    return test


@play
async def test_a_batch_holds_each_request_once_and_all_rows_get_their_text(desk, dedup):
    task = await started(dedup.run(ask(1, 2, 1, 1)))
    assert desk.prompts == [[[1], [2]]]
    desk.answer(0)
    assert tokens(await task) == [1, 2, 1, 1]
    assert (await task).is_copy == [False, False, True, True]


@play
async def test_a_request_in_flight_for_another_unit_is_waited_for(desk, dedup):
    first = await started(dedup.run(ask(1, 2)))
    second = await started(dedup.run(ask(2, 3)))
    assert desk.prompts == [[[1], [2]], [[3]]]
    desk.answer(1)
    await asyncio.sleep(0.01)
    assert not second.done()
    desk.answer(0)
    assert tokens(await second) == [2, 3]
    assert (await second).is_copy == [True, False]
    assert tokens(await first) == [1, 2]


@play
async def test_units_that_wait_for_each_other_all_end(desk, dedup):
    tasks = [await started(dedup.run(ask(*numbers))) for numbers in ((1,), (2, 1), (1, 2))]
    assert desk.prompts == [[[1]], [[2]], []]
    for number in (2, 1, 0):
        desk.answer(number)
    assert [tokens(await task) for task in tasks] == [[1], [2, 1], [1, 2]]


@play
async def test_a_finished_request_is_remembered(desk, dedup):
    for number in range(2):
        task = await started(dedup.run(ask(1)))
        desk.answer(number)
        assert tokens(await task) == [1]
    assert desk.prompts == [[[1]], []]


@play
async def test_units_that_wait_for_a_batch_that_fails_fail_too(desk, dedup):
    tasks = [await started(dedup.run(ask(1))) for _ in range(2)]
    desk.answer(1)
    desk.batches[0][1].set_exception(RuntimeError("broken"))
    for task in tasks:
        with pytest.raises(RuntimeError, match="broken"):
            await task
    again = await started(dedup.run(ask(1)))
    desk.answer(2)
    assert tokens(await again) == [1]


def test_the_memo_forgets_what_was_used_longest_ago():
    memo = CompletionMemo(max_tokens=4)  # a completion of one token counts two
    memo.add(b"a", done(1))
    memo.add(b"b", done(2))
    assert memo.get(b"a") is not None
    memo.add(b"c", done(3))
    assert [memo.get(key) is not None for key in (b"a", b"b", b"c")] == [True, False, True]
    assert memo.num_tokens == 4


def test_errors_are_not_remembered():
    memo = CompletionMemo(max_tokens=10)
    memo.add(b"a", done(1, error="logits at position 3 are NaN"))
    assert memo.get(b"a") is None


def test_requests_are_the_same_where_everything_that_matters_is():
    warm = SamplingParams(temperature=1.0, seed=1)
    keys = [
        request_key(Request([1, 2], warm)),
        request_key(Request([1, 2], warm, sample=1)),
        request_key(Request([12], warm)),
        request_key(Request([1, 2], warm.model_copy(update={"seed": 2}))),
        request_key(Request([1, 2], warm.model_copy(update={"stop": ("a",)}))),
    ]
    assert len(set(keys)) == 5
    assert request_key(Request((1, 2), warm)) == keys[0]


def test_greedy_requests_are_the_same_for_any_seed_and_sample():
    greedy = SamplingParams(seed=1)
    assert request_key(Request([1], greedy)) == request_key(Request([1], SamplingParams(seed=2), sample=3))
