import pytest
from pydantic import ValidationError

from orthrus_core import Engine, EngineConfig
from orthrus_core.readiness.ladder import (
    candidate_budgets,
    choose_token_budget,
    most_choosing,
    seconds_per_row,
    spread_out,
)
from tests.small_models import small_orthrus


@pytest.mark.parametrize(
    ("max_sequences", "block_size", "device_type", "token_budget"),
    [
        (1, 8, "cpu", 64),  # 9 rows to decode, the rest for prompts
        (8, 8, "cpu", 112),  # 72 and 36
        (64, 8, "cpu", 512),  # 576 and 288, more than rows from which costs are in proportion
        (600, 8, "cpu", 608),  # every sequence needs its anchor's row
        (4, 32, "cuda", 4096),  # for prompts
        (5000, 32, "cuda", 5008),
    ],
)
def test_every_sequence_may_draft_its_block(max_sequences, block_size, device_type, token_budget):
    assert token_budget == choose_token_budget(
        max_sequences=max_sequences, block_size=block_size, device_type=device_type
    )


@pytest.mark.parametrize(
    ("max_sequences", "block_size", "rows"),
    [
        (4, 8, 64),  # 36
        (32, 0, 32),  # plain AR: an anchor each
        (200, 8, 1024),  # 1,800, more than there is memory for
        (2000, 8, 4096),  # every sequence needs its anchor's row
        (9000, 0, 4096),
    ],
)
def test_rows_that_choose_have_a_rung_of_their_own(max_sequences, block_size, rows):
    budgets = (16, 32, 64, 128, 256, 512, 1024, 4096)
    assert rows == most_choosing(budgets, max_sequences=max_sequences, most_drafts=block_size)


def test_a_cpu_has_four_rungs_per_doubling_and_begins_with_a_lone_row():
    rungs = candidate_budgets(66, "cpu")
    assert rungs == (1, 2, 4, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 66)


def test_some_rungs_stand_for_all():
    assert spread_out((8, 10, 12, 14, 16, 20, 24)) == [8, 16, 24]
    assert spread_out((8, 10, 12, 14, 16, 20, 24, 32, 40), beyond=12) == [8, 10, 12, 24, 40]
    assert spread_out((16,)) == [16]


def test_a_gpu_has_one_rung_per_doubling():
    assert candidate_budgets(144, "cuda") == (16, 32, 64, 128, 144)


@pytest.mark.parametrize("token_budget", [4, 8, 12, 16, 17])
def test_no_rung_is_larger_than_the_token_budget(token_budget):
    rungs = candidate_budgets(token_budget, "cpu")
    assert rungs[-1] == token_budget
    assert list(rungs) == sorted(set(rungs))


def test_rows_go_to_the_cheapest_rung_that_holds_them_and_to_several_forwards_where_none_does():
    seconds = {8: 1.0, 16: 3.0, 32: 4.0}
    assert seconds_per_row((8, 16), seconds, [4]) == 1 / 4
    assert seconds_per_row((8, 16), seconds, [16]) == 3 / 16
    assert seconds_per_row((8, 16), seconds, [40]) == (3 + 3 + 1) / 40
    assert seconds_per_row((32,), seconds, [8, 32]) == (4 / 8 + 4 / 32) / 2


def test_named_rungs_are_put_in_order():
    assert EngineConfig(budgets=(64, 16, 64)).budgets == (16, 64)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"token_budget": 96}, r"the largest of budgets must be token_budget \(96\), got 64"),
        ({"max_sequences": 65}, r"the largest of budgets, must be >= max_sequences \(65\), got 64"),
        ({"budgets": ()}, "must be one or more budgets >= 1"),
        ({"budgets": (0, 64)}, "must be one or more budgets >= 1"),
    ],
)
def test_named_rungs_must_fit_the_token_budget_and_hold_every_sequence(fields, message):
    with pytest.raises(ValidationError, match=message):
        EngineConfig(**{"budgets": (16, 64), **fields})


def test_named_rungs_without_the_check_are_taken_as_they_are():
    config = EngineConfig(budgets=(16,), max_sequences=2, max_context=64, self_check=False)
    assert Engine(small_orthrus(), config).report()["budgets"] == [16]
