import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orthrus_core.evaluation.curve import AcceptanceCurve


def brute_force_tokens(conditional, num_drafts):
    """Expected tokens by walking through every possible outcome of a step."""
    expected, alive = 0.0, 1.0
    for accepted in range(num_drafts):
        expected += alive * (1 - conditional[accepted]) * (accepted + 1)
        alive *= conditional[accepted]
    return expected + alive * (num_drafts + 1)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.data())
def test_expected_tokens_agree_with_all_outcomes_weighed(conditional, data):
    num_drafts = data.draw(st.integers(0, len(conditional)))
    curve = AcceptanceCurve(tuple(conditional))
    assert curve.tokens_per_step(num_drafts) == pytest.approx(brute_force_tokens(conditional, num_drafts))


def test_survival_is_the_product_of_acceptance_so_far():
    assert AcceptanceCurve((0.5, 0.5, 1.0)).survival == (0.5, 0.25, 0.25)


def test_drafts_past_the_curve_are_never_accepted():
    curve = AcceptanceCurve.geometric(0.5, 2)
    assert curve.tokens_per_step(9) == curve.tokens_per_step(2) == 1.75


@pytest.mark.parametrize("tokens", [1.0, 1.3, 4.0, 9.6, 32.0, 33.0])
def test_a_geometric_curve_has_the_acceptance_length_it_was_made_for(tokens):
    assert AcceptanceCurve.from_tokens_per_step(tokens, 32).tokens_per_step(32) == pytest.approx(tokens)


def test_a_length_measured_with_fewer_drafts_is_met_there():
    curve = AcceptanceCurve.from_tokens_per_step(5.0, 32, measured_drafts=8)
    assert curve.tokens_per_step(8) == pytest.approx(5.0)
    assert len(curve.conditional) == 32


@pytest.mark.parametrize("tokens", [0.9, 9.1])
def test_an_impossible_acceptance_length_is_refused(tokens):
    with pytest.raises(ValueError, match="between 1 and 9"):
        AcceptanceCurve.from_tokens_per_step(tokens, 8)


def test_a_rate_that_is_no_probability_is_refused():
    with pytest.raises(ValueError, match=r"conditional\[1\]"):
        AcceptanceCurve((0.5, 1.5))


def test_counts_give_back_the_acceptance_they_were_drawn_from():
    true, blocks, chance = (0.9, 0.7, 0.8, 0.5), 20_000, random.Random(0)
    accepted = [0] * 4
    for _ in range(blocks):
        for position, rate in enumerate(true):
            if chance.random() >= rate:
                break
            accepted[position] += 1
    curve = AcceptanceCurve.from_counts(accepted, [blocks] * 4)
    assert curve.conditional == pytest.approx(true, abs=0.02)
    assert curve.tokens_per_step(4) == pytest.approx(1 + sum(accepted) / blocks)


def test_counts_of_blocks_of_different_lengths_are_shares_of_those_drafted():
    curve = AcceptanceCurve.from_counts([80, 30, 0], [100, 50, 10])
    assert curve.survival == pytest.approx((0.8, 0.6, 0.0))


def test_positions_never_drafted_are_left_out_and_chance_is_cut_at_one():
    curve = AcceptanceCurve.from_counts([50, 6, 0], [100, 10, 0])
    assert curve.conditional == (0.5, 1.0)
