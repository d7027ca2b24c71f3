"""Counters of an engine's time and places."""

import pytest

from orthrus_core import Engine, EngineConfig, Request, SamplingParams
from orthrus_core.engine.layout import StepLayout, Work
from orthrus_core.engine.sequence import Sequence
from orthrus_core.engine.stats import EngineStats
from tests.small_models import small_orthrus


def test_a_verify_calls_time_is_split_between_verify_and_prefill_by_rows():
    stats, sequence = EngineStats(), Sequence(0, [1] * 9, SamplingParams(), frozenset(), None)
    prefilling = Work(sequence, num_prefill=3, has_anchor=True)
    decoding = Work(sequence, num_prefill=0, has_anchor=True, num_drafts=3)
    stats.count_step(StepLayout.of([prefilling]), 1.0, 8.0)
    stats.count_step(StepLayout.of([decoding]), 0.5, 2.0)
    assert (stats.draft_s, stats.prefill_s, stats.verify_s) == (1.5, 6.0, 4.0)


@pytest.fixture(scope="module")
def engine():
    model = small_orthrus(vocab_size=64, mask_token_id=3, eos_token_id=2, sameness=0.2)
    return Engine(model, EngineConfig(max_context=64, max_sequences=2, page_size=16))


def test_the_parts_of_a_run_add_up_to_no_more_than_its_time(engine):
    engine.run([Request([5, 6, 7, 8] * 3, SamplingParams(max_new_tokens=20)) for _ in range(3)])
    report = engine.report()
    parts = report["seconds"]
    assert all(seconds > 0 for seconds in parts.values())
    assert 0.5 * report["busy_s"] < sum(parts.values()) <= report["busy_s"]


def test_slots_pages_and_the_queue_are_told_while_requests_run_and_after(engine):
    free = engine.report()["pages"]["free"]
    for _ in range(3):
        engine.submit(Request([9, 8, 7, 6] * 3, SamplingParams(max_new_tokens=20)))
    assert engine.report()["waiting"] == 3
    engine.step()
    during = engine.report()
    assert (during["slots"], during["waiting"]) == ({"total": 2, "busy": 2}, 1)
    assert during["pages"]["free"] < free
    while engine.has_work:
        engine.step()
    after = engine.report()
    assert (after["slots"]["busy"], after["waiting"], after["pages"]["free"]) == (0, 0, free)
