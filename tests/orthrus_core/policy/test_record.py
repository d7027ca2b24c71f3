import pytest

from orthrus_core.policy.record import FIRST_GUESS, LEAST, MOST, Prediction, TrackRecord

DRAFTING = Prediction(drafts=True, seconds=2.0)
PLAIN = Prediction(drafts=False, seconds=1.0)


def noted(*steps: tuple[Prediction, float], times: int = 1) -> TrackRecord:
    record = TrackRecord()
    for _ in range(times):
        for prediction, seconds in steps:
            record.note(prediction, seconds)
    return record


def test_without_steps_predictions_are_believed():
    assert TrackRecord().handicap == 1.0


def test_steps_as_predicted_change_nothing():
    assert noted((DRAFTING, 2.0), (PLAIN, 1.0), times=50).handicap == pytest.approx(1.0)


def test_slower_steps_than_predicted_hold_drafting_back():
    # one step at half the speed, beside the guess
    assert noted((DRAFTING, 4.0)).handicap == pytest.approx((FIRST_GUESS + 0.5) / (FIRST_GUESS + 1))


def test_a_machine_that_is_slower_for_all_steps_changes_nothing():
    assert noted((DRAFTING, 6.0), (PLAIN, 3.0), times=50).handicap == pytest.approx(1.0, abs=0.02)


def test_the_handicap_is_bounded():
    assert noted((DRAFTING, 9.0), times=500).handicap == LEAST
    assert noted((DRAFTING, 0.1), times=500).handicap == MOST


def test_old_steps_are_forgotten():
    record = noted((DRAFTING, 4.0), times=100)
    for _ in range(800):
        record.note(PLAIN, 1.0)
    assert record.handicap == pytest.approx(1.0, abs=0.03)
