"""The thread that owns the engine."""

import threading
import time
from concurrent.futures import wait
from dataclasses import replace

import pytest

from orthrus_core import Request, SamplingParams
from pipelines.generate.engine.thread import EngineThread
from tests.fakes import FakeEngine, fake_completion


def requests(*sums, limit=9):
    return [Request([total], SamplingParams(max_new_tokens=limit)) for total in sums]


def test_completions_come_back_in_the_order_of_the_requests():
    thread = EngineThread(FakeEngine, on_broken=print)
    completions, report = thread.submit(requests(8, 1, 17, 3)).result(10)
    assert [c.token_ids for c in completions] == [fake_completion([n], 9) for n in (8, 1, 17, 3)]
    assert report["exactness"] == thread.exactness == "exact"


def test_batches_of_many_callers_share_the_engine():
    engine = FakeEngine(max_sequences=4)
    thread = EngineThread(lambda: engine, on_broken=print)
    futures = [thread.submit(requests(*range(n, n + 5))) for n in range(20)]
    wait(futures, 10)
    assert engine.submitted == 100
    assert [len(future.result()[0]) for future in futures] == [5] * 20


def test_an_empty_batch_is_done_at_once():
    assert EngineThread(FakeEngine, on_broken=print).submit([]).result(10)[0] == []


def test_the_finished_share_is_that_of_batches_in_the_engine_without_the_audits():
    shares, stepped = [], threading.Event()

    class Looked(FakeEngine):
        def step(self):
            completions = super().step()
            stepped.wait(10)
            shares.append(thread.finished_share)
            return completions

    thread = EngineThread(lambda: Looked(max_sequences=4), on_broken=print)
    future = thread.submit(requests(8, 0, 0, 0))  # 9 tokens in three steps, and three times one
    audit = thread.submit([replace(one, drafts=False) for one in requests(0, 0, 0)])
    stepped.set()
    wait([future, audit], 10)
    assert set(shares) == {0.0, 0.75}
    assert thread.finished_share == 0.0


def test_the_engine_is_built_and_stepped_in_one_thread_of_its_own():
    seen = []

    class Watched(FakeEngine):
        def step(self):
            seen.append(threading.current_thread().name)
            return super().step()

    def build():
        seen.append(threading.current_thread().name)
        return Watched()

    EngineThread(build, on_broken=print).submit(requests(5)).result(10)
    assert set(seen) == {"engine"}


def test_what_the_factory_raises_is_raised_by_the_constructor():
    def build():
        raise ValueError("no such model")

    with pytest.raises(ValueError, match="no such model"):
        EngineThread(build, on_broken=print)


def test_a_step_that_raises_is_reported_and_fails_all_batches_also_later_ones():
    broken = []
    thread = EngineThread(lambda: FakeEngine(fail_at_step=2), on_broken=broken.append)
    first = thread.submit(requests(*range(30)))
    with pytest.raises(RuntimeError, match="device-side assert"):
        first.result(10)
    with pytest.raises(RuntimeError, match="device-side assert"):
        thread.submit(requests(1)).result(10)
    assert [str(error) for error in broken] == ["device-side assert triggered"]


def test_a_step_that_does_not_come_back_is_told_and_the_start_is_not_counted():
    hung, release = threading.Event(), threading.Event()

    class Hanging(FakeEngine):
        def step(self):
            if self.steps == 3:
                release.wait(20)
            return super().step()

    def build():
        time.sleep(0.5)
        return Hanging()

    told = []
    thread = EngineThread(
        build, on_broken=print, step_timeout_s=0.2, on_hung=lambda s: (told.append(s), hung.set())
    )
    future = thread.submit(requests(*range(30)))
    assert hung.wait(10)
    release.set()
    future.result(10)
    assert len(told) == 1
