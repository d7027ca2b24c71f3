"""Steps of one forward: blocks where acceptance may end, as many as pay."""

import numpy as np
import pytest

from orthrus_core.costs import Costs
from orthrus_core.engine.blocks import Demand
from orthrus_core.policy.ahead import AheadDealer, ends_of
from orthrus_core.policy.dealer import Prospects

BUDGETS = (8, 16, 32, 64, 128)
FLAT = (1.0,) * len(BUDGETS)


def costs(seconds=FLAT, **fields) -> Costs:
    return Costs(BUDGETS, seconds, seconds, **{"both_s": 0.1} | fields)


def prospects(survival, at_hand, *, left=50, most_blocks=16, **fields) -> Prospects:
    S = len(at_hand)
    demand = Demand(
        np.arange(S),
        np.full(S, len(survival)),
        np.zeros(S),
        at_hand=np.array(at_hand),
        left=np.broadcast_to(left, S),
        most_blocks=most_blocks,
        **fields,
    )
    return Prospects(demand, np.tile(survival, (S, 1)), np.ones(S))


def dealer_of(own: Costs, block_size: int) -> AheadDealer:
    return AheadDealer(own, num_slots=4, block_size=block_size)


def deal(survival, at_hand, own=None, *, plain_rate=1.0, **fields):
    return dealer_of(own or costs(), len(survival)).deal(prospects(survival, at_hand, **fields), plain_rate)


def blocks_of(deal) -> list[tuple]:
    return list(zip(*(part.tolist() for part in deal.blocks), strict=True))


SURE = [1.0] * 8


def test_where_acceptance_ends_follows_from_survival():
    survival = np.array([[0.9, 0.6, 0.5]])
    # none, one, two of two drafts; the third is not verified
    assert ends_of(survival, np.array([[2]]))[0, 0].tolist() == pytest.approx([0.1, 0.3, 0.6, 0.0])


def test_without_drafts_at_hand_the_only_block_is_at_the_anchor():
    found = deal(SURE, [0])
    assert (found.num_drafts.tolist(), blocks_of(found)) == ([0], [(0, 0, 8)])


def test_sure_drafts_need_one_block_behind_the_last():
    found = deal(SURE, [7])
    assert found.num_drafts.tolist() == [7]
    assert (0, 7, 8) in blocks_of(found)
    assert found.value / found.seconds == pytest.approx(8 / 1.1)  # tokens of every step to come, per second


def test_free_rows_go_to_a_block_at_every_likely_end():
    assert [point for _, point, _ in blocks_of(deal([0.8, 0.6, 0.4, 0.3], [3]))] == [0, 1, 2, 3]


def test_dear_rows_leave_the_likeliest_end_alone():
    by_row = tuple(0.1 + 0.1 * budget for budget in BUDGETS)
    found = deal([0.98, 0.96, 0.94, 0.92], [3], costs(by_row, step_s=3.0))
    assert [point for _, point, _ in blocks_of(found)] == [3]


def test_drafts_that_never_stand_get_no_blocks():
    by_row = tuple(0.1 * budget for budget in BUDGETS)
    found = deal([0.01] * 8, [0, 0, 0], costs(by_row))
    assert blocks_of(found) == []


@pytest.mark.parametrize(("left", "rows"), [(50, 8), (6, 5), (2, 0)])
def test_no_block_reaches_past_the_last_token(left, rows):
    # after this step left - 1 tokens, of which the last one needs no draft; a block's first row is none
    assert [count for *_, count in blocks_of(deal(SURE, [0], left=left))] == [rows] * (rows > 0)


def test_rows_and_blocks_stay_within_their_bounds():
    own = costs(most_choosing=32)
    found = deal(SURE, [7, 7, 7], own, num_waiting=9, num_prompts=2, most_blocks=1)
    assert len(blocks_of(found)) <= 1
    num_rows = 3 + int(found.num_drafts.sum()) + sum(count for *_, count in blocks_of(found))
    assert num_rows + 2 <= 32
    assert 1 <= found.num_prefill <= 128 - num_rows


def test_the_next_steps_go_on_as_decided_and_newcomers_do_what_most_do():
    dealer = dealer_of(costs(), 8)
    dealer.deal(prospects(SURE, [0, 0]), 1.0)
    assert [blocks_of(dealer.go_on(prospects(SURE, at_hand)))[-1] for at_hand in ([7], [7, 0, 7])] == [
        (0, 7, 8),
        (2, 7, 8),
    ]


def test_promises_that_are_not_kept_are_held_against_it():
    dealer = dealer_of(costs(), 8)
    before = dealer.deal(prospects(SURE, [7]), 1.0)
    for _ in range(100):
        dealer.observe(1, 3)  # 4 tokens where 8 were predicted
    after = dealer.deal(prospects(SURE, [7]), 1.0)
    assert 0.5 <= after.value / before.value < 0.7


def test_a_step_is_priced_at_the_forward_that_its_rows_of_both_views_come_to():
    by_row = tuple(0.01 * budget for budget in BUDGETS)
    own = costs(by_row, step_s=3.0, any_split=False)
    # 10 and 10 rows beside 2 blocks of 8: all in 64 where rows split anyhow, 16 of blocks and 48
    found = deal(SURE, [3, 3], own)
    T = sum(own.both_budgets(2 + int(found.num_drafts.sum()), int(found.blocks.counts.sum())))
    assert found.seconds == pytest.approx(3.1 + by_row[BUDGETS.index(T)])


@pytest.mark.parametrize("at_hand", [[0] * 4, [7, 0, 7, 3], [7] * 4])
@pytest.mark.parametrize("waiting", [0, 1, 40])
@pytest.mark.parametrize("survival", [SURE, [0.9**depth for depth in range(1, 9)]], ids=["sure", "fading"])
def test_where_splits_are_few_no_step_asks_for_another(survival, waiting, at_hand):
    for num_budgets in range(1, len(BUDGETS)):
        budgets = BUDGETS[1 : 1 + num_budgets]
        flat = (1.0,) * num_budgets
        own = Costs(budgets, flat, flat, both_s=0.1, any_split=False)
        found = deal(survival, at_hand, own, num_waiting=waiting, num_prompts=min(waiting, 1))
        num_rows = 4 + int(found.num_drafts.sum()) + found.num_prefill
        _, num_block_rows = own.both_budgets(num_rows, int(found.blocks.counts.sum()))
        assert num_block_rows in (0, *budgets, *(T - T // 4 for T in budgets))


@pytest.mark.parametrize(
    ("num_rows", "num_block_rows", "expected"),
    [(8, 16, (16, 16)), (8, 40, (16, 48)), (20, 40, (64, 64)), (8, 72, (32, 96)), (100, 28, (100, 28))],
)
def test_where_splits_are_few_blocks_have_a_rung_or_three_quarters_of_a_forward(
    num_rows, num_block_rows, expected
):
    assert costs(BUDGETS, any_split=False).both_budgets(num_rows, num_block_rows) == expected
