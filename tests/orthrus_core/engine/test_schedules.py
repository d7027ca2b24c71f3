"""Random schedules of the whole engine over a fake language, with a dict as the reference cache."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orthrus_core import Engine, EngineConfig, Request, SamplingParams
from orthrus_core.costs import Costs
from orthrus_core.readiness.startup import Readiness
from tests.fake_runner import FakeRunner, continuation
from tests.small_models import small_orthrus

V = 97
PROMPTS = st.lists(st.integers(0, 2), min_size=1, max_size=30)  # few ids, so that prompts share beginnings


@pytest.fixture(scope="module")
def model():
    return small_orthrus(vocab_size=V, block_size=16)


def fake_engine(
    model, config: EngineConfig, *, wrong_share: float, seed: int, costs: Costs | None = None
) -> Engine:
    source = random.Random(seed)
    runner = FakeRunner(model, config, lambda: source.random() < wrong_share)
    ready = Readiness("unverified", costs or Costs.unmeasured(config.token_budget))
    return Engine(runner, config, ready=ready)


@st.composite
def configs(draw) -> EngineConfig:
    max_sequences = draw(st.integers(1, 6))
    max_context = draw(st.integers(8, 60))
    page_size = draw(st.sampled_from([1, 2, 4, 8]))
    least = -(-max_context // page_size) + 1
    return EngineConfig(
        mode=draw(st.sampled_from(["consensus", "consensus", "autoregressive"])),
        token_budget=draw(st.integers(max(max_sequences, 4), 24)),
        block_size=draw(st.integers(1, 16)),
        block_policy=draw(st.sampled_from(["adaptive", "adaptive", "fixed"])),
        max_sequences=max_sequences,
        max_context=max_context,
        page_size=page_size,
        num_pages=draw(st.integers(least, least * 3)),
        self_check=False,
    )


@st.composite
def ladders(draw, token_budget: int) -> Costs:
    """Budgets up to `token_budget`, with costs that make drafts cheap, dear or anything between."""
    smaller = draw(st.sets(st.integers(1, token_budget - 1), max_size=4))
    budgets = (*sorted(smaller), token_budget)
    seconds = st.lists(
        st.sampled_from([0.001, 0.01, 0.1, 1.0, 1.1, 3.0]), min_size=len(budgets), max_size=len(budgets)
    )
    return Costs(
        budgets,
        tuple(draw(seconds)),
        tuple(draw(seconds)),
        step_s=draw(st.sampled_from([0.0, 0.5])),
        sequence_s=draw(st.sampled_from([0.0, 0.1])),
        both_s=draw(st.sampled_from([None, 0.0, 0.3])),
        any_split=draw(st.booleans()),
    )


@st.composite
def priced_configs(draw) -> tuple[EngineConfig, Costs]:
    config = draw(configs())
    return config, draw(ladders(config.token_budget))


@settings(max_examples=40, deadline=None)
@given(
    priced_config=priced_configs(),
    requests=st.lists(st.tuples(PROMPTS, st.integers(1, 40), st.integers(0, 12)), min_size=1, max_size=12),
    wrong_share=st.sampled_from([0.0, 0.2, 0.7, 1.0]),
    seed=st.integers(0, 99),
    cancelled=st.sets(st.integers(0, 11), max_size=3),
    plain=st.sets(st.integers(0, 11), max_size=6),
    num_stops=st.sampled_from([0, 0, 8]),
    runs_ahead=st.booleans(),
)
def test_every_schedule_gives_the_ar_text_and_returns_all_pages(
    model, priced_config, requests, wrong_share, seed, cancelled, plain, num_stops, runs_ahead
):
    config, costs = priced_config
    engine = fake_engine(model, config, wrong_share=wrong_share, seed=seed, costs=costs)
    engine.runs_ahead, stops = runs_ahead, range(num_stops)
    pool = engine.runner.tables.pool
    arrivals = sorted(range(len(requests)), key=lambda index: requests[index][2])
    index_of_id: dict[int, int] = {}
    done = {}
    steps = 0
    while arrivals or engine.has_work:
        while arrivals and requests[arrivals[0]][2] <= steps:
            index = arrivals.pop(0)
            prompt, max_new_tokens, _ = requests[index]
            params = SamplingParams(
                max_new_tokens=max_new_tokens, ignore_eos=True, stop_token_ids=list(stops)
            )
            request = Request(prompt, params, drafts=index not in plain)
            index_of_id[engine.submit(request)] = index
        for completion in engine.step():
            done[index_of_id[completion.request_id]] = completion
        steps += 1
        for request_id, index in index_of_id.items():
            if index in cancelled and index not in done and steps == requests[index][2] + 3:
                assert engine.cancel(request_id)
                done[index] = None
        assert steps < 5000, "the engine makes no progress"
    assert sorted(done) == list(range(len(requests)))
    for index, completion in done.items():
        if completion is not None:
            check_completion(completion, *requests[index][:2], config.max_context, stops)
            assert not (index in plain and completion.stats.drafted)
    assert pool.num_available == pool.num_pages - 1
    assert not any(pool.references)
    assert engine.runner.budgets_seen <= set(costs.budgets)


def check_completion(
    completion, prompt: list[int], max_new_tokens: int, max_context: int, stops: range = range(0)
) -> None:
    if len(prompt) >= max_context:
        assert completion.finish_reason == "error"
        assert completion.error == f"prompt has {len(prompt)} tokens, max_context is {max_context}"
        return
    count = min(max_new_tokens, max_context - len(prompt))
    expected = continuation(prompt, count, V)
    stop = next((place for place, token_id in enumerate(expected) if token_id in stops), None)
    assert completion.token_ids == expected[: None if stop is None else stop + 1]
    reason = "length" if count == max_new_tokens else "context"
    assert completion.finish_reason == (reason if stop is None else "stop")


def test_right_drafts_are_all_accepted_and_counted(model):
    config = EngineConfig(token_budget=16, block_size=4, max_sequences=1, max_context=64, self_check=False)
    engine = fake_engine(model, config, wrong_share=0.0, seed=0)
    # prefill emits 1 token; then 4 drafts + 1 bonus per step: 5 + 5 + 5
    [completion] = engine.generate([[1, 2, 3]], SamplingParams(max_new_tokens=16, ignore_eos=True))
    stats = completion.stats
    assert (stats.steps, stats.forwards, stats.drafted, stats.accepted) == (3, 6, 12, 12)
    assert (stats.acceptance_length, stats.tokens_per_forward) == (5.0, 2.5)
    assert (stats.prompt_tokens, stats.completion_tokens, stats.step_tokens) == (3, 16, 15)
    assert engine.report()["accepted_by_position"] == [3, 3, 3, 3]


def test_wrong_drafts_cost_steps_but_no_text(model):
    config = EngineConfig(token_budget=16, block_size=4, max_sequences=1, max_context=64, self_check=False)
    engine = fake_engine(model, config, wrong_share=1.0, seed=0)
    [completion] = engine.generate([[1, 2, 3]], SamplingParams(max_new_tokens=4, ignore_eos=True))
    assert completion.token_ids == continuation([1, 2, 3], 4, V)
    assert (completion.stats.steps, completion.stats.accepted) == (3, 0)
    assert completion.stats.acceptance_length == 1.0


def test_a_shared_prompt_beginning_is_prefilled_once(model):
    config = EngineConfig(token_budget=16, max_sequences=1, max_context=64, page_size=4, self_check=False)
    engine = fake_engine(model, config, wrong_share=0.5, seed=0)
    prompts = [[5] * 17, [5] * 16 + [6, 7]]
    completions = engine.generate(prompts, SamplingParams(max_new_tokens=3, ignore_eos=True))
    assert engine.report()["prefix_tokens"] == 16
    assert [c.token_ids for c in completions] == [continuation(prompt, 3, V) for prompt in prompts]


@pytest.mark.parametrize("num_samples", [2, 5])
@pytest.mark.parametrize("max_sequences", [1, 3])
def test_equal_prompts_are_prefilled_once_whatever_the_chunks(model, num_samples, max_sequences):
    config = EngineConfig(
        token_budget=8, max_sequences=max_sequences, max_context=64, page_size=4, self_check=False
    )
    engine = fake_engine(model, config, wrong_share=0.5, seed=0)
    prompts = [[1, 2] * 10, [3] * 30]
    params = SamplingParams(max_new_tokens=3, ignore_eos=True)
    completions = engine.generate(prompts, params, num_samples=num_samples)
    # 16 and 28 tokens lie in full pages before the last token's
    assert engine.report()["prefix_tokens"] == (num_samples - 1) * (16 + 28)
    expected = [continuation(prompt, 3, V) for prompt in prompts for _ in range(num_samples)]
    assert [c.token_ids for c in completions] == expected


@pytest.mark.parametrize("token_budget", [8, 64])
def test_prompts_that_come_together_wait_for_the_pages_of_their_common_beginning(model, token_budget):
    config = EngineConfig(
        token_budget=token_budget, max_sequences=4, max_context=64, page_size=4, self_check=False
    )
    engine = fake_engine(model, config, wrong_share=0.5, seed=0)
    prompts = [[7] * 18 + [tail] * 5 for tail in range(1, 5)]  # 16 tokens in full pages, 2 in one with others
    completions = engine.generate(prompts, SamplingParams(max_new_tokens=3, ignore_eos=True))
    assert engine.report()["prefix_tokens"] == 3 * 16
    assert [c.stats.cached_tokens for c in completions] == [0, 16, 16, 16]
    assert [c.token_ids for c in completions] == [continuation(prompt, 3, V) for prompt in prompts]


def test_prompts_with_nothing_in_common_do_not_wait_for_each_other(model):
    config = EngineConfig(token_budget=64, max_sequences=4, max_context=64, page_size=4, self_check=False)
    engine = fake_engine(model, config, wrong_share=0.5, seed=0)
    for first in range(1, 5):
        engine.submit(Request([first, *[7] * 12], SamplingParams(max_new_tokens=3, ignore_eos=True)))
    engine.step()
    assert len(engine.scheduler.running) == 4


def test_a_full_pool_preempts_the_youngest_and_changes_no_text(model):
    config = EngineConfig(
        token_budget=16, max_sequences=3, max_context=40, page_size=4, num_pages=14, self_check=False
    )
    engine = fake_engine(model, config, wrong_share=0.3, seed=1)
    prompts = [[1] * 9, [2] * 9, [3] * 9]
    completions = engine.generate(prompts, SamplingParams(max_new_tokens=30, ignore_eos=True))
    assert engine.report()["preemptions"] > 0
    assert [c.token_ids for c in completions] == [continuation(prompt, 30, V) for prompt in prompts]


def test_no_forward_exceeds_the_token_budget(model):
    config = EngineConfig(token_budget=12, max_sequences=6, max_context=50, self_check=False)
    engine = fake_engine(model, config, wrong_share=0.3, seed=2)
    engine.generate([[n] * (3 * n + 1) for n in range(9)], SamplingParams(max_new_tokens=12, ignore_eos=True))
    assert max(engine.runner.rows_seen) == 12


@pytest.mark.parametrize(("block_policy", "least", "most"), [("adaptive", 8, 30), ("fixed", 58, 58)])
def test_only_adaptive_blocks_stop_drafting_what_is_never_accepted(model, block_policy, least, most):
    config = EngineConfig(
        token_budget=16, block_size=4, max_sequences=1, max_context=64, block_policy=block_policy,
        self_check=False,
    )  # fmt: skip
    engine = fake_engine(model, config, wrong_share=1.0, seed=0)
    # prefill emits one of the 60 tokens; nothing is drafted for the last one
    engine.generate([[1, 2, 3]], SamplingParams(max_new_tokens=60, ignore_eos=True))
    assert least <= engine.report()["draft_forwards"] <= most


def test_a_lone_sequence_runs_on_small_budgets_and_a_crowd_on_large_ones(model):
    config = EngineConfig(token_budget=24, max_sequences=6, max_context=50, block_size=4, self_check=False)
    costs = Costs((4, 8, 24), draft_s=(1.0, 1.9, 5.0), verify_s=(1.0, 1.9, 5.0))
    engine = fake_engine(model, config, wrong_share=1.0, seed=0, costs=costs)
    engine.generate([[1]], SamplingParams(max_new_tokens=9, ignore_eos=True))
    assert engine.runner.budgets_seen == {4}
    engine.generate([[n] * 20 for n in range(6)], SamplingParams(max_new_tokens=9, ignore_eos=True))
    assert engine.runner.budgets_seen == {4, 8, 24}


@pytest.mark.parametrize(("followed", "num_cached"), [(True, 16), (False, 4)])
def test_a_prompt_that_goes_on_behind_a_completion_starts_from_its_pages(model, followed, num_cached):
    config = EngineConfig(token_budget=16, max_sequences=2, max_context=64, page_size=4, self_check=False)
    engine = fake_engine(model, config, wrong_share=0.5, seed=0)
    params = SamplingParams(max_new_tokens=11, ignore_eos=True)
    [first] = engine.run([Request([5] * 6, params, followed=followed)])
    # of 6 + 11 tokens the last one has no keys and values yet; the prompt alone fills one page
    prompt = [5] * 6 + first.token_ids + [1, 2]
    [second] = engine.run([Request(prompt, params, follows=True)])
    assert second.stats.cached_tokens == num_cached
    assert second.token_ids == continuation(prompt, 11, V)


def test_requests_that_follow_begin_before_those_that_wait_and_in_their_order(model):
    config = EngineConfig(token_budget=16, max_sequences=1, max_context=64, self_check=False)
    engine = fake_engine(model, config, wrong_share=0.5, seed=0)
    params = SamplingParams(max_new_tokens=3, ignore_eos=True)
    asked = {
        engine.submit(Request([n], params, follows=follows)): n
        for n, follows in enumerate((False, False, True, False, True))
    }
    ended = []
    while engine.has_work:
        ended += [asked[completion.request_id] for completion in engine.step()]
    assert ended == [2, 4, 0, 1, 3]


@settings(max_examples=20, deadline=None)
@given(
    priced_config=priced_configs(),
    beginnings=st.lists(PROMPTS, min_size=1, max_size=8),
    num_turns=st.integers(2, 4),
    length=st.integers(1, 12),
    wrong_share=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_conversations_of_any_schedule_have_the_ar_text_and_return_all_pages(
    model, priced_config, beginnings, num_turns, length, wrong_share
):
    config, costs = priced_config
    engine = fake_engine(model, config, wrong_share=wrong_share, seed=0, costs=costs)
    params = SamplingParams(max_new_tokens=length, ignore_eos=True)
    asked = {engine.submit(Request(prompt, params, followed=True)): (prompt, 1) for prompt in beginnings}
    num_answers = 0
    while engine.has_work:
        for completion in engine.step():
            prompt, number = asked.pop(completion.request_id)
            check_completion(completion, prompt, length, config.max_context)
            num_answers += 1
            if number < num_turns and completion.error is None:
                prompt = [*prompt, *completion.token_ids, number]
                request = Request(prompt, params, follows=True, followed=number + 1 < num_turns)
                asked[engine.submit(request)] = (prompt, number + 1)
    assert num_answers >= len(beginnings)
    assert not asked
    assert not any(engine.runner.tables.pool.references)
