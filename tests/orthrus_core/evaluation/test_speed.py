import pytest

from orthrus_core.evaluation.speed import Measured, Spread, Timing, rows_in_common, spread, time_systems

PROMPTS = [[1], [2], [3]]


class Clock:
    """Time that only passes when a system says so."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def fake_system(clock, name, seconds, calls, *, length=4):
    """Getting ready takes 50 s, which must not be counted; the work takes `seconds` of each turn in order."""
    turns = iter(seconds)

    def prepare(prompts):
        clock.now += 50.0

        def work():
            calls.append((name, len(prompts)))
            clock.now += next(turns)
            return [[7] * length for _ in prompts]

        return work

    return prepare


@pytest.fixture
def timed():
    clock, calls = Clock(), []
    systems = {
        "quick": fake_system(clock, "quick", [99.0, 2.0, 1.0, 4.0], calls),
        "slow": fake_system(clock, "slow", [99.0, 6.0, 6.0, 6.0], calls, length=8),
    }
    return time_systems(systems, PROMPTS, rounds=3, warm_up_rows=2, clock=clock), calls


def test_warm_up_and_preparation_are_not_timed(timed):
    timings, _ = timed
    assert timings["quick"].seconds == (2.0, 1.0, 4.0)
    assert timings["slow"].seconds == (6.0, 6.0, 6.0)


def test_systems_take_turns_and_the_order_rotates(timed):
    _, calls = timed
    assert calls[:2] == [("quick", 2), ("slow", 2)]
    assert [name for name, _ in calls[2:]] == ["quick", "slow", "slow", "quick", "quick", "slow"]
    assert {rows for _, rows in calls[2:]} == {3}


def test_work_that_timed_itself_is_believed():
    def prepare(prompts):
        return lambda: Measured([[7]] * len(prompts), 0.25)

    timing = time_systems({"peer": prepare}, PROMPTS, rounds=2, warm_up_rows=1, clock=Clock())["peer"]
    assert (timing.seconds, timing.tokens, timing.outputs) == ((0.25, 0.25), (3, 3), [[7], [7], [7]])


def test_every_turn_is_preceded_by_a_pause_that_is_not_timed():
    clock, calls, pauses = Clock(), [], []
    system = fake_system(clock, "one", [99.0, 2.0, 3.0], calls)

    def sleep(seconds):
        clock.now += seconds
        pauses.append((seconds, len(calls)))

    timing = time_systems(
        {"one": system}, PROMPTS, rounds=2, warm_up_rows=1, pause_s=0.5, clock=clock, sleep=sleep
    )["one"]
    assert timing.seconds == (2.0, 3.0)
    assert pauses == [(0.5, 1), (0.5, 2)]


def test_rate_is_emitted_tokens_over_seconds(timed):
    timings, _ = timed
    assert timings["quick"].tokens == (12, 12, 12)
    assert timings["quick"].tokens_per_s == Spread(median=6.0, lowest=3.0, highest=12.0)


def test_ratio_is_taken_round_by_round(timed):
    timings, _ = timed
    # 24 tokens in 6 s against 12 in 2, 1 and 4 s
    assert timings["quick"].ratio_to(timings["slow"]) == Spread(median=1.5, lowest=0.75, highest=3.0)


def test_rounds_of_another_length_are_counted_as_they_came():
    timing = Timing(seconds=(1.0, 2.0), tokens=(10, 40), outputs=[])
    assert timing.rates == (10.0, 20.0)


def test_median_of_an_even_number_lies_between():
    assert spread([1.0, 2.0, 4.0, 8.0]) == Spread(3.0, 1.0, 8.0)


def test_rows_in_common_counts_equal_rows():
    assert rows_in_common([[1, 2], [3], []], [[1, 2], [4], []]) == 2
