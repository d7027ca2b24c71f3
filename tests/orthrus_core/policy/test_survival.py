"""Estimates of acceptance against known acceptance."""

import numpy as np
import pytest

from orthrus_core.policy.survival import SurvivalEstimates


def tell(estimates: SurvivalEstimates, *blocks: tuple[int, int, int]) -> None:
    """One step; blocks are (slot, drafts, accepted)."""
    slots, num_drafts, accepted = np.array(blocks, dtype=np.int64).reshape(-1, 3).T
    estimates.observe(slots, num_drafts, accepted)


def survival(estimates: SurvivalEstimates, *slots: int) -> np.ndarray:
    return estimates.survival(np.array(slots, dtype=np.int64))


def taught(acceptance: np.ndarray, *, steps: int, lengths: int | None = None, seed: int = 0):
    """Estimates after steps in which each slot draws from its own acceptance, (slots, K)."""
    source = np.random.default_rng(seed)
    num_slots, K = acceptance.shape
    estimates = SurvivalEstimates(num_slots, K)
    for _ in range(steps):
        agrees = source.random((num_slots, K)) < acceptance
        drafts = lengths or K
        accepted = np.cumprod(agrees[:, :drafts], axis=1).sum(axis=1)
        estimates.observe(np.arange(num_slots), np.full(num_slots, drafts), accepted)
    return estimates


def test_a_new_run_expects_drafts_to_be_worth_a_try():
    assert survival(SurvivalEstimates(1, 4), 0)[0, 0] > 0.6


def test_survival_falls_along_the_block():
    rates = survival(taught(np.full((2, 6), 0.8), steps=20), 0, 1)
    assert (np.diff(rates, axis=1) < 0).all()


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.7, 0.97])
def test_estimates_approach_the_true_survival(rate):
    acceptance = np.full((32, 8), rate)
    estimates = taught(acceptance, steps=60)
    error = survival(estimates, *range(32)).mean(axis=0) - np.cumprod(acceptance[0])
    assert np.abs(error).max() < 0.04


def test_a_slot_that_the_head_is_bad_at_has_a_low_survival_of_its_own():
    acceptance = np.full((32, 8), 0.95)
    acceptance[:, 7] = 0.1
    rates = survival(taught(acceptance, steps=60), *range(32)).mean(axis=0)
    assert rates[6] == pytest.approx(0.95**7, abs=0.08)
    assert rates[7] / rates[6] == pytest.approx(0.1, abs=0.05)


def test_few_steps_tell_hard_text_from_easy_text():
    acceptance = np.repeat([[0.97], [0.3]], 16, axis=0) * np.ones(8)
    rates = survival(taught(acceptance, steps=5), *range(32))[:, 0]
    assert rates[:16].min() > 0.85
    assert rates[16:].max() < 0.6


def test_what_follows_a_rejection_counts_for_nothing():
    long, short = SurvivalEstimates(1, 8), SurvivalEstimates(1, 8)
    for _ in range(5):
        tell(long, (0, 8, 2))
        tell(short, (0, 3, 2))
    assert (survival(long, 0) == survival(short, 0)).all()


def test_a_block_that_was_too_short_to_fail_is_no_failure():
    estimates = SurvivalEstimates(1, 8)
    before = survival(estimates, 0)
    tell(estimates, (0, 2, 2))
    assert (survival(estimates, 0) > before).all()


def test_a_new_sequence_starts_from_what_others_showed():
    # 16 sequences of 0.3 and the weight of two of the first guess, 0.7
    acceptance = np.full((16, 4), 0.3)
    estimates = taught(acceptance, steps=30)
    for slot in range(16):
        estimates.forget(slot)
    assert survival(estimates, 3)[0, 0] == pytest.approx(0.3, abs=0.1)


def test_the_outcomes_of_a_slots_last_sequence_say_nothing_about_the_next():
    estimates = taught(np.repeat([[0.97], [0.3]], 4, axis=0) * np.ones(4), steps=30)
    estimates.forget(0)
    estimates.forget(7)
    fresh = survival(estimates, 0, 7)
    assert (fresh[0] == fresh[1]).all()


def test_a_sequence_that_was_long_not_tried_is_judged_like_a_new_one():
    estimates = taught(np.repeat([[0.97], [0.3]], 4, axis=0) * np.ones(4), steps=30)
    hard = survival(estimates, 7)[0, 0]
    for _ in range(2000):
        tell(estimates)
    assert survival(estimates, 7)[0, 0] > hard + 0.15


def test_text_that_turns_hard_is_noticed_within_some_steps():
    estimates = taught(np.full((1, 8), 0.97), steps=100)
    for _ in range(12):
        tell(estimates, (0, 8, 0))
    assert survival(estimates, 0)[0, 0] < 0.5
