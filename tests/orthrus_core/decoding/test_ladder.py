import pytest

from orthrus_core.decoding.ladder import candidate_budgets, check_rungs, choose_token_budget
from orthrus_core.errors import ConfigError


@pytest.mark.parametrize(
    ("max_sequences", "block_size", "device_type", "token_budget"),
    [
        (1, 8, "cpu", 64),  # 9 rows to decode, the rest for prompts
        (8, 8, "cpu", 112),  # 72 and 36
        (64, 8, "cpu", 512),  # 576 and 288, more than rows from which costs are in proportion
        (600, 8, "cpu", 608),  # every sequence needs its anchor's row
        (64, 32, "cuda", 1024),
        (4, 32, "cuda", 208),  # 132 and 66
    ],
)
def test_every_sequence_may_draft_its_block(max_sequences, block_size, device_type, token_budget):
    assert token_budget == choose_token_budget(
        max_sequences=max_sequences, block_size=block_size, device_type=device_type
    )


def test_a_cpu_has_four_rungs_per_doubling():
    assert candidate_budgets(66, "cpu") == (8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 66)


def test_a_gpu_has_one_rung_per_doubling():
    assert candidate_budgets(144, "cuda") == (16, 32, 64, 128, 144)


@pytest.mark.parametrize("token_budget", [4, 8, 12, 16, 17])
def test_no_rung_is_larger_than_the_token_budget(token_budget):
    rungs = candidate_budgets(token_budget, "cpu")
    assert rungs[-1] == token_budget
    assert list(rungs) == sorted(set(rungs))


def test_named_rungs_are_put_in_order():
    assert check_rungs((64, 16, 64), token_budget=64) == (16, 64)


def test_named_rungs_must_end_with_the_token_budget():
    with pytest.raises(ConfigError, match=r"the largest of budgets must be token_budget \(96\), got 64"):
        check_rungs((16, 64), token_budget=96)
