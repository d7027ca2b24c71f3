"""Lookup beside AR and blocks, on a virtual clock: never dear where it is wrong, taken where it is right."""

import numpy as np
import pytest

from tests.benchmarks.simulator import Job, KnownLookup, Simulation, cpu_costs, fixed_rate, gpu_costs

L = 8
COSTS = {"cpu": cpu_costs(), "gpu": gpu_costs()}


def rate(costs_name: str, S: int, lookup: KnownLookup, *, steps: int, block_size: int = 0) -> float:
    """Tokens/s of endless sequences over that of AR decoding."""
    costs = COSTS[costs_name]
    jobs = [Job((), prompt_tokens=1, completion_tokens=steps * (L + 1) + 2)] * (S + 1)
    run = Simulation(jobs, costs, block_size=block_size, max_sequences=S, lookup=lookup).run(steps)
    return run.tokens / run.clock_s / fixed_rate(np.zeros((S, 1)), costs, num_drafts=0)


@pytest.mark.parametrize("costs_name", COSTS)
@pytest.mark.parametrize("S", [1, 8, 64, 256])
def test_a_corpus_that_is_always_wrong_costs_less_than_2_percent(costs_name, S):
    assert rate(costs_name, S, KnownLookup(0.0), steps=600) > 0.98


@pytest.mark.parametrize("S", [1, 64])
def test_looking_for_what_is_always_wrong_costs_less_than_2_percent_too(S):
    lookup = KnownLookup(0.0, seconds=0.1 * min(COSTS["cpu"].verify_s))
    assert rate("cpu", S, lookup, steps=600) > 0.98
    assert lookup.num_asked < 80


@pytest.mark.parametrize(("costs_name", "S", "least"), [("cpu", 1, 6.0), ("gpu", 1, 8.0), ("gpu", 8, 8.0)])
def test_drafts_that_always_stand_are_taken(costs_name, S, least):
    # a step of 9 rows each instead of one: on the CPU 1.3 ms instead of 1.1
    assert rate(costs_name, S, KnownLookup(1.0), steps=200) > least


def test_sure_lookup_takes_the_place_of_blocks_and_their_forwards():
    jobs = [Job((1.0,) * L, prompt_tokens=1, completion_tokens=3000)]
    lookup = KnownLookup(1.0)
    run = Simulation(jobs, COSTS["gpu"], block_size=L, max_sequences=1, lookup=lookup).run(200)
    assert run.draft_forwards < 20


def test_blocks_are_made_where_lookup_is_wrong():
    jobs = [Job((0.97,) * L, prompt_tokens=1, completion_tokens=3000)]
    run = Simulation(jobs, COSTS["gpu"], block_size=L, max_sequences=1, lookup=KnownLookup(0.0)).run(200)
    assert run.draft_forwards > 150
