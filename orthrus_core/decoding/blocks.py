"""How many drafts and prompt rows a step gets: adaptive blocks, and fixed ones to compare with."""

from dataclasses import replace
from typing import Protocol

import numpy as np

from orthrus_core.decoding.policy import Costs, Deal, Dealer, Demand, PricedDeal
from orthrus_core.decoding.survival import SurvivalEstimates
from orthrus_core.decoding.tail import Tail

EXPLORATION = 0.005  # share of the time that may go into trying drafts that do not seem to pay


class BlockPolicy(Protocol):
    """Decides how many rows drafts and prompts get."""

    def deal(
        self, slots: np.ndarray, caps: np.ndarray, num_waiting: int, *, remaining: np.ndarray | None
    ) -> Deal:
        """Share the rows of a step.

        Args:
            slots: (S,) int64, where the decoding sequences are.
            caps: (S,) int64, most drafts of each.
            num_waiting: rows that prompts could use.
            remaining: (S,) int64 tokens that each may still emit, when no sequence waits for a slot; else
                None.
        """

    def observe(self, slots: np.ndarray, num_drafts: np.ndarray, num_accepted: np.ndarray) -> None:
        """Learn from a step; arguments as in `SurvivalEstimates.observe`."""

    def forget(self, slot: int, *, is_limited: bool) -> None:
        """The sequence of a slot leaves; `is_limited`: because it may emit no more."""


class AdaptiveBlocks:
    """Deals by estimated survival and measured costs.

    A sequence that gets no drafts would not be learnt about any more, so the one left out for longest gets a
    draft all the same once the time saved up for trials, a share of all time, covers what that is expected to
    lose. Where nobody drafts, this happens only if sure drafts would pay. The first trial of a run is free.
    """

    def __init__(self, costs: Costs, *, num_slots: int, block_size: int):
        """Args: block_size is K, 0 for plain AR decoding."""
        self._dealer = Dealer(costs)
        self._tail = Tail(costs)
        self._estimates = SurvivalEstimates(num_slots, block_size)
        self._saved_s = float("inf")
        self._num_steps = 0
        self._drafted_at = np.zeros(num_slots, dtype=np.int64)  # number of the last step with a draft

    def deal(
        self, slots: np.ndarray, caps: np.ndarray, num_waiting: int, *, remaining: np.ndarray | None
    ) -> Deal:
        """As in `BlockPolicy`."""
        self._num_steps += 1
        worth = self._tail.worth(remaining) if remaining is not None and len(caps) else np.ones(len(caps))
        demand = Demand(self._estimates.survival(slots), caps, worth, num_waiting)
        best = self._dealer.deal(demand)
        left_out = np.flatnonzero((best.num_drafts == 0) & (caps > 0))
        if len(left_out) and (best.num_drafts.any() or self._could_pay(demand)):
            self._saved_s += EXPLORATION * best.seconds
            tried = int(left_out[self._drafted_at[slots[left_out]].argmin()])
            best = self._trial(best, demand, tried) or best
        self._drafted_at[slots[best.num_drafts > 0]] = self._num_steps
        return best

    def observe(self, slots: np.ndarray, num_drafts: np.ndarray, num_accepted: np.ndarray) -> None:
        """As in `BlockPolicy`."""
        self._estimates.observe(slots, num_drafts, num_accepted)

    def forget(self, slot: int, *, is_limited: bool) -> None:
        """As in `BlockPolicy`."""
        self._estimates.forget(slot)
        self._tail.count_end(is_limited)
        self._drafted_at[slot] = self._num_steps

    def _could_pay(self, demand: Demand) -> bool:
        """Whether anybody would draft if every draft were sure."""
        sure = replace(demand, survival=np.ones_like(demand.survival))
        return bool(self._dealer.deal(sure).num_drafts.any())

    def _trial(self, best: PricedDeal, demand: Demand, tried: int) -> PricedDeal | None:
        """Return the best deal that gives a sequence a draft, if what it loses was saved up."""
        worth = demand.worth[tried]
        boost = 1 + demand.worth.max() / worth  # enough to be ranked first
        survival = demand.survival.copy()
        survival[tried, 0] += boost
        trial = self._dealer.deal(replace(demand, survival=survival), must_draft=True)
        value = trial.value - boost * worth if trial.num_drafts[tried] else trial.value
        loss_s = trial.seconds - value * best.seconds / best.value
        if loss_s > self._saved_s:
            return None
        self._saved_s = 0.0
        return trial


class FixedBlocks:
    """Gives everybody a whole block, or an even share where the largest budget cannot hold that.

    Prompts get half of the largest budget at most while others draft, and the rows that a rung has to spare.
    """

    def __init__(self, costs: Costs):
        self._costs = costs

    def deal(
        self, slots: np.ndarray, caps: np.ndarray, num_waiting: int, *, remaining: np.ndarray | None
    ) -> Deal:
        """As in `BlockPolicy`."""
        S, T = len(caps), self._costs.budgets[-1]
        most = max(1, min(T - S, T // 2)) if caps.any() else T - S
        num_drafts = share_evenly(caps, T - S - min(num_waiting, most))
        num_rows = S + int(num_drafts.sum())
        budget = self._costs.verify_budget(num_rows + min(num_waiting, most))
        return Deal(num_drafts, min(num_waiting, budget - num_rows))

    def observe(self, slots: np.ndarray, num_drafts: np.ndarray, num_accepted: np.ndarray) -> None:
        """Nothing depends on the outcomes."""

    def forget(self, slot: int, *, is_limited: bool) -> None:
        """Nothing is remembered."""


def share_evenly(caps: np.ndarray, num_rows: int) -> np.ndarray:
    """Return (S,) int64 rows for each sequence, at most `caps`, as even as they allow."""
    counts = np.zeros_like(caps)
    for num_served, index in enumerate(np.argsort(caps, kind="stable")):
        counts[index] = min(caps[index], num_rows // (len(caps) - num_served))
        num_rows -= counts[index]
    return counts
