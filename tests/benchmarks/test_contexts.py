"""The simulation of drafting by context, a few of its cells."""

from dataclasses import replace

import pytest

from pipelines.plan import CARDS
from tests.benchmarks.contexts import card_costs, fitting_sequences, gains, simulate
from tests.benchmarks.simulator import Job, KnownLookup, Simulation, gpu_costs


@pytest.mark.parametrize(
    ("card", "context", "acceptance"), [("h100", 512, 0.9), ("h200", 4096, 0.8), ("h100", 32_768, 0.8)]
)
def test_adaptive_blocks_are_within_3_percent_of_the_best_fixed_length(card, context, acceptance):
    costs, S = card_costs(CARDS[card]), min(64, fitting_sequences(CARDS[card], context))
    outcome = simulate(costs, num_sequences=S, context=context, acceptance=acceptance, steps=100)
    assert outcome.share > 0.97


@pytest.mark.parametrize(
    ("context", "num_sequences", "acceptance"),
    [(512, 1, 0.6), (4096, 1, 0.8), (16_384, 1, 0.8), (512, 64, 0.8)],
)
def test_of_all_sources_the_policy_takes_what_brings_most(context, num_sequences, acceptance):
    found = gains(
        CARDS["h200"], num_sequences=num_sequences, context=context, acceptance=acceptance, steps=120
    )
    assert found["all"] > 0.95 * max(found.values())


def test_sure_drafts_of_the_step_before_make_every_step_a_whole_block_in_one_forward():
    costs = replace(gpu_costs(), draft_s=(1.0,) * len(gpu_costs().budgets), both_s=0.0)
    run = Simulation([Job((1.0,) * 8, 1, 4000)], costs, block_size=8, max_sequences=1).run(100)
    before, num_both = run.tokens, run.both_forwards
    run.run(150)
    assert (run.tokens - before, run.both_forwards - num_both, run.draft_forwards) == (50 * 8, 50, 0)


def test_looked_up_drafts_stand_as_often_as_they_are_known_to_and_no_draft_forward_is_made():
    run = Simulation([Job((), 1, 4000)], gpu_costs(), block_size=0, max_sequences=1, lookup=KnownLookup(0.5))
    run.run(1000)
    assert run.draft_forwards == 0
    # 1 + 1/2 + 1/4 + ... + 1/256
    assert run.tokens / run.steps == pytest.approx(511 / 256, rel=0.05)
