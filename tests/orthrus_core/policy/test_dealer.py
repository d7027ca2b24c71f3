"""Dealing the rows of a step: hand-made cases and every deal of tiny ones."""

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest

from orthrus_core.costs import CellCosts, Costs
from orthrus_core.engine.blocks import Demand, FixedBlocks
from orthrus_core.policy.dealer import Dealer, Prospects
from tests.benchmarks.simulator import cells_s

CHEAP_DRAFTS = Costs((4, 8), draft_s=(0.2, 0.4), verify_s=(1.0, 1.2))
THREE = [[0.9, 0.8], [0.5, 0.2], [0.1, 0.05]]


def demand(survival, caps=None, *, worth=None, num_waiting=0, contexts=None, waiting_context=0) -> Prospects:
    S, K = len(survival), len(survival[0]) if survival else 0
    return Prospects(
        Demand(
            np.arange(S),
            np.array([K] * S if caps is None else caps, dtype=np.int64),
            np.array([0] * S if contexts is None else contexts, dtype=np.int64),
            num_waiting,
            waiting_context,
        ),
        np.array(survival, dtype=float).reshape(S, K),
        np.ones(S) if worth is None else np.array(worth, dtype=float),
    )


def counts(costs: Costs, asked: Prospects, **options) -> tuple[list[int], int]:
    deal = Dealer(costs).deal(asked, **options)
    return deal.num_drafts.tolist(), deal.num_prefill


def test_the_likeliest_drafts_are_dealt_while_they_raise_the_rate():
    # by number of drafts: 3/1, 3.9/1.2, 4.7/1.4, 5.2/1.4, 5.4/1.4 and, past the first draft rung, 5.5/1.6
    assert counts(CHEAP_DRAFTS, demand(THREE)) == ([2, 2, 0], 0)


def test_nobody_drafts_where_a_draft_forward_costs_more_than_it_brings():
    # 3/1 against (3.9 or 5.4)/2 and 5.5/3
    same = Costs((4, 8), draft_s=(1.0, 2.0), verify_s=(1.0, 1.0))
    assert counts(same, demand(THREE)) == ([0, 0, 0], 0)


def test_a_cap_hands_the_row_to_the_next_draft():
    # 3 + .9 + .5 + .2 + .1: 4.7/1.4 with four drafts
    assert counts(CHEAP_DRAFTS, demand(THREE, caps=[1, 2, 2])) == ([1, 2, 1], 0)


def test_a_must_finds_the_best_deal_with_a_draft():
    same = Costs((4, 8), draft_s=(1.0, 2.0), verify_s=(1.0, 1.0))
    assert counts(same, demand(THREE), must_draft=True) == ([2, 2, 0], 0)


def test_worth_ranks_sequences():
    # the third sequence's .1 and .05 are worth 2 and 1
    one_draft = Costs((4,), draft_s=(0.01,), verify_s=(1.0,))
    assert counts(one_draft, demand(THREE, worth=[1, 1, 20])) == ([0, 0, 1], 0)


def test_prompts_fill_the_rows_that_a_rung_has_to_spare():
    dear = Costs((4, 8), draft_s=(9.0, 9.0), verify_s=(1.0, 3.0))
    # (3 + 1)/1 against (3 + 5)/3
    assert counts(dear, demand(THREE, num_waiting=100)) == ([0, 0, 0], 1)


def test_prompts_open_a_larger_rung_where_that_commits_more_per_second():
    flat = Costs((4, 8), draft_s=(9.0, 9.0), verify_s=(1.0, 1.5))
    # (3 + 1)/1 against (3 + 5)/1.5
    assert counts(flat, demand(THREE, num_waiting=100)) == ([0, 0, 0], 5)


def test_prompts_get_a_row_even_where_a_full_small_rung_is_better():
    steep = Costs((3, 8), draft_s=(99.0, 99.0), verify_s=(1.0, 50.0))
    assert counts(steep, demand(THREE, num_waiting=2)) == ([0, 0, 0], 2)


def test_prompts_alone_take_the_rung_with_the_most_rows_per_second():
    costs = Costs((4, 8), draft_s=(1.0, 1.0), verify_s=(1.0, 1.9))
    assert counts(costs, demand([], num_waiting=100)) == ([], 8)
    assert counts(costs, demand([], num_waiting=5)) == ([], 4)


def test_rows_that_are_read_out_are_paid_for():
    # a draft more than the small head holds: (1 + 2.7) / (1 + 0.4 + head) against 1 / (1 + head)
    costs = Costs((2, 8), draft_s=(0.4, 0.4), verify_s=(1.0, 1.0), head_s=(0.1, 5.0))
    sure = demand([[0.9, 0.9, 0.9]])
    assert counts(costs, sure) == ([1], 0)
    assert counts(replace(costs, head_s=(0.1, 0.1)), sure) == ([3], 0)


def test_budgets_beyond_the_rows_that_may_choose_are_for_prompts_alone():
    costs = Costs((4, 64), draft_s=(0.1, 0.1), verify_s=(1.0, 2.0), most_choosing=4)
    assert counts(costs, demand([[0.9] * 8] * 2, num_waiting=10)) == ([1, 1], 10)
    assert FixedBlocks(costs).deal(demand([[0.9] * 8] * 2).demand).num_drafts.tolist() == [1, 1]
    assert costs.choice_budget(3) == 4


def test_a_sequence_that_drafts_pays_for_its_place_in_the_draft_forward():
    # two drafts of one sequence: 3.0/(1 + .1 + 2*.1 + .1); two sequences with one each would pay .1 more
    costs = Costs((8,), draft_s=(0.1,), verify_s=(1.0,), sequence_s=0.1)
    assert counts(costs, demand([[0.6, 0.5], [0.1, 0.05]])) == ([2, 0], 0)


def test_a_rung_that_is_dearer_than_a_larger_one_is_not_used():
    costs = Costs((4, 8), draft_s=(2.0, 1.0), verify_s=(2.0, 1.0))
    assert (costs.draft_budget(1), costs.verify_budget(1), costs.draft_budget(0)) == (8, 8, 0)


def test_where_rows_are_dear_only_long_contexts_draft():
    # 3/1 against 8.1/11; where each view reads 120,000 cells in 120 s: 3/121 against 8.1/251
    costs = Costs((3, 16), (5.0, 5.0), (1.0, 6.0), CellCosts(0.001), CellCosts(0.001))
    assert counts(costs, demand([[0.9, 0.8]] * 3)) == ([0, 0, 0], 0)
    assert counts(costs, demand([[0.9, 0.8]] * 3, contexts=[40_000] * 3)) == ([2, 2, 2], 0)


def test_a_sequence_whose_rows_see_many_cells_leaves_its_drafts_to_others():
    # one draft that sees 5,000 cells takes 1 s of a step of 1 s, for a gain of .9
    costs = Costs((8,), (0.01,), (1.0,), CellCosts(row_s=0.0001), CellCosts(row_s=0.0001))
    assert counts(costs, demand([[0.9, 0.8], [0.6, 0.5]], contexts=[5000, 10])) == ([0, 2], 0)


def test_rows_of_long_prompts_are_priced_by_their_cells():
    # (3 + 1)/1 against (3 + 5)/1.5, and against (3 + 5)/3.5 where five rows see 5,000 cells each
    flat = Costs((4, 8), (9.0, 9.0), (1.0, 1.5), verify_cells=CellCosts(row_s=0.0001))
    assert counts(flat, demand(THREE, num_waiting=100)) == ([0, 0, 0], 5)
    assert counts(flat, demand(THREE, num_waiting=100, waiting_context=5000)) == ([0, 0, 0], 1)


@pytest.mark.parametrize("seed", range(60))
def test_no_other_deal_has_a_better_rate(seed):
    source = random.Random(seed)
    cells = CellCosts(source.choice([0.0, 0.001]), source.choice([0.0, 0.001]))
    context = source.choice([0, 100, 2000])
    costs, asked = random_case(source, cells, [context] * 3)
    deal = Dealer(costs).deal(asked)
    assert deal.value / deal.seconds == pytest.approx(best_rate(costs, asked))


@pytest.mark.parametrize("seed", range(60))
def test_where_contexts_differ_no_other_deal_is_much_better(seed):
    source = random.Random(seed)
    cells = CellCosts(source.choice([0.0, 0.001]), source.choice([0.0, 0.001]))
    costs, asked = random_case(source, cells, [10, 300, 2000])
    deal = Dealer(costs).deal(asked)
    assert deal.value / deal.seconds > 0.98 * best_rate(costs, asked)


def random_case(source: random.Random, cells: CellCosts, contexts: list[int]) -> tuple[Costs, Prospects]:
    S, K = source.randint(0, 3), source.randint(0, 3)
    budgets = tuple(sorted(source.sample(range(S + 1, 13), 3)))
    rise = sorted(source.uniform(0.2, 3.0) for _ in range(6))
    costs = Costs(
        budgets,
        tuple(rise[::2]),
        tuple(rise[1::2]),
        cells,
        cells,
        step_s=source.choice([0.0, 0.3]),
        sequence_s=source.choice([0.0, 0.1]),
    )
    conditional = np.array([[source.random() for _ in range(K)] for _ in range(S)]).reshape(S, K)
    return costs, demand(
        np.cumprod(conditional, axis=1).tolist(),
        caps=[source.randint(0, K) for _ in range(S)],
        num_waiting=source.choice([0, 0, 1, 3, 20]) if S else 5,
        contexts=contexts[:S],
        waiting_context=contexts[0],
    )


def best_rate(costs: Costs, asked: Prospects) -> float:
    """Try every dealing of drafts, number of prompt rows and pair of rungs."""
    caps, contexts, num_waiting = asked.demand.caps, asked.demand.contexts, asked.demand.num_waiting
    S = len(caps)
    rates = []
    for drafts in itertools.product(*(range(cap + 1) for cap in caps)):
        gain = sum(sum(asked.survival[s][:count]) for s, count in enumerate(drafts))
        num_rows = np.array(drafts, dtype=np.int64)
        for rows in range(min(num_waiting, 1), num_waiting + 1):
            for verify_budget, verify_s in zip(costs.budgets, costs.verify_s, strict=True):
                if S + sum(drafts) + rows > verify_budget:
                    continue
                seconds = verify_s + costs.step_s + costs.sequence_s * S
                seconds += cells_s(costs.verify_cells, contexts, num_rows + 1)
                seconds += cells_s(costs.draft_cells, contexts, num_rows)
                seconds += costs.verify_cells.row_s * rows * asked.demand.waiting_context
                if sum(drafts):
                    fitting = zip(costs.budgets, costs.draft_s, strict=True)
                    seconds += min(s for budget, s in fitting if budget >= sum(drafts))
                    seconds += costs.sequence_s * np.count_nonzero(drafts)
                rates.append((S + gain + rows) / seconds)
    return max(rates)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"draft_s": (1.0,)}, "for each budget, got 2 budgets, 1 draft_s, 2 verify_s"),
        ({"budgets": (8, 4)}, "budgets must be positive and ascending, got"),
        ({"verify_s": (1.0, 0.0)}, "must be > 0"),
        ({"step_s": -1.0}, "step_s and sequence_s must be >= 0"),
    ],
)
def test_costs_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Costs(**{"budgets": (4, 8), "draft_s": (1.0, 1.0), "verify_s": (1.0, 1.0)} | fields)


def test_more_rows_than_the_largest_budget_are_refused():
    with pytest.raises(ValueError, match="9 token rows, the largest budget is 8"):
        CHEAP_DRAFTS.verify_budget(9)
