"""Steps that draft for the next one while they verify: as exact as all others, in every traffic."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from orthrus_core import Engine, EngineConfig, Request, SamplingParams
from orthrus_core.costs import Costs
from orthrus_core.engine.blocks import Blocks, Deal
from orthrus_core.engine.step import DiffusionDrafts
from orthrus_core.linear.native import NativeLinear
from orthrus_core.readiness.engine import new_runner
from orthrus_core.readiness.startup import Readiness
from tests.ahead_policy import RandomAhead
from tests.fake_runner import FakeRunner, continuation
from tests.plain_ar import alone, outcomes, run_with_arrivals
from tests.seeds import seeds
from tests.small_models import small_orthrus

V = 97
DTYPES = [torch.float32, torch.bfloat16]


def ahead_engine(
    model, seed: int, *, runner=None, consensus="coupled", **fields
) -> tuple[Engine, RandomAhead]:
    """An engine whose policy draws its steps at random."""
    config = EngineConfig(self_check=False, consensus=consensus, lookup_tokens=0, **fields)
    K, T = config.block_size, config.token_budget
    if runner is None:
        runner = new_runner(model, config)
        runner.use(model, NativeLinear(model.dtype))
    costs = Costs((T // 2, T), (1.0, 1.0), (1.0, 1.1), both_s=0.0)
    policy = RandomAhead(random.Random(seed), token_budget=T, block_size=K)
    return Engine(runner, config, policy=policy, ready=Readiness("exact", costs)), policy


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", seeds(5))
def test_text_is_that_of_plain_ar_bit_for_bit_in_random_traffic(dtype, seed):
    source = random.Random(seed)
    model = small_orthrus(seed=seed, dtype=dtype, block_size=8, sameness=source.choice([0.2, 1.0]))
    T = source.choice([24, 64])
    prompts = [source.choices(range(V - 1), k=source.randint(1, 70)) for _ in range(6)]
    requests = [
        Request(
            source.choice(prompts),
            SamplingParams(
                max_new_tokens=24, logprobs=True, seed=n, temperature=source.choice([0.0, 0.7]), top_p=0.9
            ),
            sample=n % 3,
            drafts=source.random() < 0.9,
        )
        for n in range(9)
    ]
    engine, policy = ahead_engine(
        model,
        seed,
        token_budget=T,
        block_size=8,
        max_sequences=source.choice([1, 4, 8]),
        max_context=112,
        num_pages=source.choice([None, 17]),
    )
    completions = run_with_arrivals(engine, requests, source)
    assert outcomes(completions) == outcomes(alone(model, requests, token_budget=T, max_context=112))
    assert policy.num_ahead > 5
    assert sum(one.stats.accepted for one in completions) > 10
    pool = engine.runner.tables.pool
    assert pool.num_available == pool.num_pages - 1


def deal_whole_blocks(demand) -> Deal:
    """Verify all drafts of a lone sequence, with a block of 8 rows behind the last one."""
    if not len(demand.slots):
        return Deal(demand.caps, demand.num_waiting)
    blocks = Blocks(*(np.array([number]) for number in (0, demand.at_hand[0], 8)))
    return Deal(demand.at_hand, 0, blocks=blocks)


def test_with_right_drafts_every_forward_emits_a_whole_block():
    model = small_orthrus(vocab_size=V, block_size=8)
    config = {"token_budget": 90, "block_size": 8, "max_sequences": 1, "max_context": 64}
    runner = FakeRunner(model, EngineConfig(self_check=False, **config), lambda: False)
    engine, policy = ahead_engine(model, 0, runner=runner, **config)
    policy.deal = deal_whole_blocks
    [completion] = engine.generate([[1, 2, 3]], SamplingParams(max_new_tokens=26, ignore_eos=True))
    assert completion.token_ids == continuation([1, 2, 3], 26, V)
    # prefill emits one; a step without drafts one; then 7 drafts and one more, three times
    assert (completion.stats.steps, completion.stats.forwards) == (4, 4)
    assert (completion.stats.drafted, completion.stats.accepted) == (21, 21)
    assert engine.report()["draft_forwards"] == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_engine_that_checked_itself_drafts_ahead_where_that_pays_and_keeps_the_bits(dtype):
    model = small_orthrus(dtype=dtype, block_size=8, sameness=1.0)
    config = EngineConfig(max_sequences=1, max_context=112, token_budget=64, lookup_tokens=0)
    engine = Engine(model, config)
    assert engine.exactness == "exact"
    dear, free = ((seconds,) * len(engine.costs.budgets) for seconds in (1.0, 1e-3))
    costs = replace(engine.costs, both_s=0.0, draft_s=dear, verify_s=free, head_s=(), is_measured=False)
    engine = Engine(model, config, ready=replace(engine._ready, costs=costs))
    engine.runner.use(model, NativeLinear(dtype))
    requests = [Request([n, 5, 6], SamplingParams(max_new_tokens=80, logprobs=True)) for n in range(3)]
    completions = engine.run(requests)
    assert outcomes(completions) == outcomes(alone(model, requests, token_budget=64, max_context=112))
    assert engine.report()["draft_forwards"] < engine.report()["steps"] / 4
    assert completions[-1].stats.tokens_per_forward > 1.2


def test_drafts_from_elsewhere_are_not_made_a_step_ahead():
    config = EngineConfig(max_sequences=1, max_context=64, token_budget=16, self_check=False)
    ready = Readiness("exact", Costs((16,), (1.0,), (1.0,), both_s=0.0))
    model = small_orthrus()
    assert Engine(model, config, ready=ready).costs.both_s == 0.0
    assert Engine(model, config, ready=ready, draft=DiffusionDrafts()).costs.both_s is None


def test_under_the_rejection_rule_requests_that_sample_have_two_forwards():
    model = small_orthrus(block_size=8, sameness=1.0)
    fields = {"token_budget": 32, "block_size": 8, "max_sequences": 2, "max_context": 64}
    engine, policy = ahead_engine(model, 0, consensus="rejection", **fields)
    engine.generate([[1, 2]], SamplingParams(max_new_tokens=20, temperature=0.8))
    assert policy.num_ahead == 0
    engine.generate([[1, 2]], SamplingParams(max_new_tokens=20))
    assert policy.num_ahead > 0
