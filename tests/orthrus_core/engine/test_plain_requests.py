"""Requests without drafts in an engine that drafts."""

import pytest

from orthrus_core import Engine, EngineConfig, Request, SamplingParams
from tests.small_models import small_orthrus

V = 97
PARAMS = SamplingParams(max_new_tokens=20, logprobs=True)
PROMPTS = [[5, 6, 7], [9] * 30, [3], [20, 21]]


@pytest.fixture(scope="module")
def model():
    return small_orthrus(vocab_size=V, block_size=8, sameness=0.2)


def new_engine(model, **fields) -> Engine:
    values = {"max_sequences": 4, "token_budget": 64, "max_context": 128, "block_policy": "fixed"}
    return Engine(model, EngineConfig(**values | fields))


def plain(prompt) -> Request:
    return Request(prompt, PARAMS, drafts=False)


@pytest.mark.parametrize("policy", ["fixed", "adaptive"])
@pytest.mark.parametrize("temperature", [0.0, 1.2])
def test_text_and_bits_are_those_of_the_drafting_neighbour(model, policy, temperature):
    params = PARAMS.model_copy(update={"temperature": temperature})
    requests = [Request(prompt, params, drafts=drafts) for prompt in PROMPTS for drafts in (True, False)]
    completions = new_engine(model, block_policy=policy).run(requests)
    for drafted, alone in zip(completions[::2], completions[1::2], strict=True):
        assert (drafted.token_ids, drafted.logprobs) == (alone.token_ids, alone.logprobs)


def test_it_gets_one_row_a_step_and_no_draft(model):
    completions = new_engine(model).run([plain(prompt) for prompt in PROMPTS])
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        stats = completion.stats
        steps = 19 if len(prompt) > 1 else 20  # the last forward of a prefill emits the first token
        assert (stats.drafted, stats.steps, stats.forwards) == (0, steps, steps)


def test_it_begins_only_when_no_other_request_waits(model):
    engine = new_engine(model, max_sequences=2)
    first = engine.submit(plain([5, 6]))
    ordinary = [engine.submit(Request(prompt, PARAMS)) for prompt in PROMPTS]
    order = []
    while engine.has_work:
        order += [completion.request_id for completion in engine.step()]
    assert set(order) == {first, *ordinary}
    assert order[-1] == first


def test_it_can_be_cancelled_while_it_waits_and_while_it_runs(model):
    engine = new_engine(model)
    waiting = engine.submit(plain([5, 6]))
    assert engine.cancel(waiting)
    assert not engine.has_work
    running = engine.submit(plain([5, 6]))
    engine.step()
    assert engine.cancel(running)
    assert not engine.has_work


def test_its_steps_are_not_in_the_engines_acceptance_length(model):
    engine = new_engine(model)
    engine.run([plain(prompt) for prompt in PROMPTS])
    assert engine.report()["acceptance_length"] is None
    assert engine.report()["emitted_tokens"] == 80


def test_one_that_lost_its_pages_to_others_ends_with_the_same_text(model):
    alone = new_engine(model).run([plain(prompt) for prompt in PROMPTS])
    engine = new_engine(model, num_pages=9, max_context=60, page_size=8)
    crowded = engine.run([plain(prompt) for prompt in PROMPTS])
    assert engine.report()["preemptions"] > 0
    assert [one.token_ids for one in crowded] == [one.token_ids for one in alone]
