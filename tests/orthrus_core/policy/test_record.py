import pytest

from orthrus_core.policy.record import FIRST_GUESS, LEAST, MOST, Kind, TrackRecord

DRAFTING = Kind.BLOCKS, 2.0  # predicted seconds
PLAIN = Kind.PLAIN, 1.0


def noted(*steps: tuple[tuple[Kind, float], float], times: int = 1) -> TrackRecord:
    record = TrackRecord()
    for _ in range(times):
        for prediction, seconds in steps:
            record.note(*prediction, seconds)
    return record


def test_without_steps_predictions_are_believed():
    assert TrackRecord().handicap(Kind.BLOCKS) == 1.0


def test_steps_as_predicted_change_nothing():
    assert noted((DRAFTING, 2.0), (PLAIN, 1.0), times=50).handicap(Kind.BLOCKS) == pytest.approx(1.0)


def test_slower_steps_than_predicted_hold_drafting_back():
    # one step at half the speed, beside the guess
    assert noted((DRAFTING, 4.0)).handicap(Kind.BLOCKS) == pytest.approx(
        (FIRST_GUESS + 0.5) / (FIRST_GUESS + 1)
    )


def test_a_machine_that_is_slower_for_all_steps_changes_nothing():
    assert noted((DRAFTING, 6.0), (PLAIN, 3.0), times=50).handicap(Kind.BLOCKS) == pytest.approx(
        1.0, abs=0.02
    )


def test_the_handicap_is_bounded():
    assert noted((DRAFTING, 9.0), times=500).handicap(Kind.BLOCKS) == LEAST
    assert noted((DRAFTING, 0.1), times=500).handicap(Kind.BLOCKS) == MOST


def test_old_steps_are_forgotten():
    record = noted((DRAFTING, 4.0), times=100)
    for _ in range(800):
        record.note(*PLAIN, 1.0)
    assert record.handicap(Kind.BLOCKS) == pytest.approx(1.0, abs=0.03)


def test_slow_steps_of_one_kind_do_not_hold_the_other_back():
    record = noted((DRAFTING, 8.0), (PLAIN, 1.0), times=50)
    assert record.handicap(Kind.LOOKUP) == pytest.approx(1.0)
