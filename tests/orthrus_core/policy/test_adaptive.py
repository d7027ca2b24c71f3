"""Block policies on hand-made steps."""

import numpy as np
import pytest

from orthrus_core.costs import Costs
from orthrus_core.engine.blocks import Demand, FixedBlocks, share_evenly
from orthrus_core.policy.adaptive import AdaptiveBlocks
from orthrus_core.policy.dealer import Dealer, Prospects

LADDER = Costs((8, 16, 32), draft_s=(1.0, 2.0, 4.0), verify_s=(1.0, 2.0, 4.0))
FREE_DRAFTS = Costs((8, 16, 32), draft_s=(0.1, 0.1, 0.1), verify_s=(1.0, 1.0, 1.0))


def demand(caps: list[int], num_waiting: int = 0) -> Demand:
    S = len(caps)
    return Demand(np.arange(S), np.array(caps, dtype=np.int64), np.zeros(S, dtype=np.int64), num_waiting)


def fixed(costs: Costs, caps: list[int], num_waiting: int) -> tuple[list[int], int]:
    deal = FixedBlocks(costs).deal(demand(caps, num_waiting))
    return deal.num_drafts.tolist(), deal.num_prefill


@pytest.mark.parametrize(
    ("caps", "num_rows", "expected"),
    [
        ([4, 4, 4], 12, [4, 4, 4]),
        ([4, 4, 4], 7, [2, 2, 3]),
        ([1, 8, 8], 9, [1, 4, 4]),
        ([0, 5], 3, [0, 3]),
        ([4, 4], 0, [0, 0]),
        ([], 5, []),
    ],
)
def test_even_shares_leave_nothing_that_somebody_could_use(caps, num_rows, expected):
    assert share_evenly(np.array(caps, dtype=np.int64), num_rows).tolist() == expected


def test_fixed_blocks_are_whole_where_they_fit():
    assert fixed(LADDER, [4, 4, 4], 0) == ([4, 4, 4], 0)


def test_fixed_blocks_shrink_evenly_where_the_largest_budget_ends():
    assert fixed(LADDER, [15, 15], 0) == ([15, 15], 0)
    assert fixed(LADDER, [20, 20], 0) == ([15, 15], 0)


def test_beside_fixed_blocks_prompts_get_half_of_the_largest_budget():
    assert fixed(LADDER, [15, 15], 100) == ([7, 7], 16)


def test_beside_fixed_blocks_prompts_get_what_their_rung_has_to_spare():
    # 2 anchors, 2 x 2 drafts and the 16 rows that are theirs need a budget of 32, which leaves 26
    assert fixed(LADDER, [2, 2], 21) == ([2, 2], 21)
    assert fixed(LADDER, [2, 2], 100) == ([2, 2], 26)


def test_prompts_alone_get_the_whole_largest_budget():
    assert fixed(LADDER, [], 100) == ([], 32)


def test_free_drafts_are_taken_from_the_first_step_on():
    blocks = AdaptiveBlocks(FREE_DRAFTS, num_slots=4, block_size=4)
    deal = blocks.deal(demand([4, 4, 4, 4]))
    assert deal.num_drafts.tolist() == [4, 4, 4, 4]


def test_nobody_gets_more_drafts_than_its_cap():
    blocks = AdaptiveBlocks(FREE_DRAFTS, num_slots=3, block_size=4)
    deal = blocks.deal(demand([0, 2, 4]))
    assert deal.num_drafts.tolist() == [0, 2, 4]


def test_plain_decoding_is_a_policy_without_drafts():
    blocks = AdaptiveBlocks(LADDER, num_slots=3, block_size=0)
    deal = blocks.deal(demand([0, 0, 0], 4))
    assert (deal.num_drafts.tolist(), deal.num_prefill) == ([0, 0, 0], 4)


def test_a_sequence_left_out_is_tried_again_and_again():
    """Room for five drafts; the first sequence accepts all of them, the others none."""
    costs = Costs((8,), draft_s=(0.1,), verify_s=(1.0,))
    blocks = AdaptiveBlocks(costs, num_slots=3, block_size=5)
    tried = np.zeros(3, dtype=np.int64)
    for _ in range(300):
        num_drafts = blocks.deal(demand([5, 5, 5])).num_drafts
        drafting = np.flatnonzero(num_drafts)
        accepted = np.where(drafting == 0, num_drafts[drafting], 0)
        blocks.observe(drafting, num_drafts[drafting], accepted)
        tried += num_drafts > 0
    assert tried[0] == 300
    assert 1 < tried[1] < 60
    assert 1 < tried[2] < 60


def test_where_no_draft_pays_few_steps_are_dealt_anew(monkeypatch):
    dear = Costs((8, 16, 32), draft_s=(9.0, 9.0, 9.0), verify_s=(1.0, 2.0, 4.0))
    blocks = AdaptiveBlocks(dear, num_slots=4, block_size=4)
    dealt: list[int] = []
    deal = Dealer.deal
    monkeypatch.setattr(Dealer, "deal", lambda *a, **k: (dealt.append(1), deal(*a, **k))[1])
    for waiting, most in ((5, 32), (0, 12)):
        dealt.clear()
        for _ in range(100):
            found = blocks.deal(demand([4, 4, 4], waiting))
            assert (found.num_drafts.tolist(), found.num_prefill) == ([0, 0, 0], waiting)
        assert 1 <= len(dealt) <= most


def test_the_best_step_without_drafts_is_that_of_a_deal_with_nobody_to_draft():
    prospects = Prospects(demand([0, 0, 0], 9), np.zeros((3, 4)), np.ones(3))
    dealer = Dealer(LADDER)
    assert repr(dealer.plain(prospects)) == repr(dealer.deal(prospects))
