"""The simulation of drafting by context, a few of its cells."""

import pytest

from pipelines.plan import CARDS
from tests.benchmarks.contexts import card_costs, fitting_sequences, simulate


@pytest.mark.parametrize(
    ("card", "context", "acceptance"), [("h100", 512, 0.9), ("h200", 4096, 0.8), ("h100", 32_768, 0.8)]
)
def test_adaptive_blocks_are_within_3_percent_of_the_best_fixed_length(card, context, acceptance):
    costs, S = card_costs(CARDS[card]), min(64, fitting_sequences(CARDS[card], context))
    outcome = simulate(costs, num_sequences=S, context=context, acceptance=acceptance, steps=100)
    assert outcome.share > 0.97
