"""Lookup beside AR and blocks, on a virtual clock: never dear where it is wrong, taken where it is right."""

import numpy as np
import pytest

from orthrus_core.engine.blocks import Offer
from orthrus_core.lookup.record import OWN, MatchRecord, kinds_of
from tests.benchmarks.simulator import Job, Simulation, cpu_costs, fixed_rate, gpu_costs

L = 8
COSTS = {"cpu": cpu_costs(), "gpu": gpu_costs()}
ALWAYS_RIGHT, ALWAYS_WRONG = (1.0,) * L, (0.0,) * L


class OneKind:
    """Offers L drafts to everybody in every step, as if a long run of its own text had been found.

    Attributes:
        num_asked: how often.
    """

    def __init__(self, stands: bool, seconds: float = 0.0):
        self._record, self._stands, self._seconds = MatchRecord(L), stands, seconds
        self.num_asked = 0

    def offer(self, sequences) -> Offer:
        S = len(sequences)
        kinds = kinds_of(np.full(S, OWN), np.full(S, 4))
        drafts = np.zeros((S, L), dtype=np.int64)
        if self.num_asked:  # how those of the last time did
            self._record.learn(kinds, drafts, drafts if self._stands else drafts + 1)
        self.num_asked += 1
        return Offer(drafts, np.full(S, L), self._record.survival[kinds], self._seconds)

    def leave(self, sequence) -> None:
        pass

    def forget_texts(self) -> None:
        pass


def rate(costs_name: str, S: int, lookup: OneKind, kind, *, steps: int, block_size: int = 0) -> float:
    """Tokens/s of endless sequences over that of AR decoding."""
    costs = COSTS[costs_name]
    jobs = [Job(kind, prompt_tokens=1, completion_tokens=steps * (L + 1) + 2)] * (S + 1)
    run = Simulation(jobs, costs, block_size=block_size, max_sequences=S, lookup=lookup).run(steps)
    plain = fixed_rate(np.zeros((S, 1)), costs, num_drafts=0)
    return run.tokens / (run.clock_s + lookup.num_asked * lookup._seconds) / plain


@pytest.mark.parametrize("costs_name", COSTS)
@pytest.mark.parametrize("S", [1, 8, 64, 256])
def test_a_corpus_that_is_always_wrong_costs_less_than_2_percent(costs_name, S):
    assert rate(costs_name, S, OneKind(stands=False), ALWAYS_WRONG, steps=600) > 0.98


@pytest.mark.parametrize("S", [1, 64])
def test_looking_for_what_is_always_wrong_costs_less_than_2_percent_too(S):
    lookup = OneKind(stands=False, seconds=0.1 * min(COSTS["cpu"].verify_s))
    assert rate("cpu", S, lookup, ALWAYS_WRONG, steps=600) > 0.98
    assert lookup.num_asked < 80


@pytest.mark.parametrize(("costs_name", "S", "least"), [("cpu", 1, 6.0), ("gpu", 1, 8.0), ("gpu", 8, 8.0)])
def test_drafts_that_always_stand_are_taken(costs_name, S, least):
    # a step of 9 rows each instead of one: on the CPU 1.3 ms instead of 1.1
    assert rate(costs_name, S, OneKind(stands=True), ALWAYS_RIGHT, steps=200) > least


def test_sure_lookup_takes_the_place_of_blocks_and_their_forwards():
    jobs = [Job(ALWAYS_RIGHT, prompt_tokens=1, completion_tokens=3000)]
    lookup = OneKind(stands=True)
    run = Simulation(jobs, COSTS["gpu"], block_size=L, max_sequences=1, lookup=lookup).run(200)
    assert run.draft_forwards < 20


def test_blocks_are_made_where_lookup_is_wrong():
    jobs = [Job((0.97,) * L, prompt_tokens=1, completion_tokens=3000)]
    run = Simulation(jobs, COSTS["gpu"], block_size=L, max_sequences=1, lookup=OneKind(stands=False)).run(200)
    assert run.draft_forwards > 150
