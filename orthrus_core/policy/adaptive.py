"""Adaptive blocks: drafts where they pay, by estimated acceptance and measured costs."""

from dataclasses import replace

import numpy as np

from orthrus_core.costs import Costs
from orthrus_core.engine.blocks import Deal, Demand
from orthrus_core.policy.dealer import Dealer, PricedDeal, Prospects
from orthrus_core.policy.record import Prediction, TrackRecord
from orthrus_core.policy.survival import SurvivalEstimates
from orthrus_core.policy.tail import Tail

FREE_BLOCKS = 8  # a bad beginning alone shall not decide for the rest of a run; +2 % where text turns hard
TRIAL_STEPS = 8  # a trial is thought of this often: it costs a second deal
EXPLORATION = 0.005  # share of the time that trials may lose; +21 % where text turns easy


class AdaptiveBlocks:
    """A `BlockPolicy` that deals by estimated survival and measured costs.

    A sequence that gets no drafts would not be learnt about any more, so the one left out for longest gets a
    draft all the same once the time saved up for trials, a share of all time, covers what that is expected to
    lose. Where nobody drafts, this happens only if sure drafts would pay. Trials are free until a run has
    seen some blocks. When nobody drafts, the next steps of the same sequences are not dealt anew until a
    trial may be due: of hard text a deal then takes 31 us of the host, not 78 (64 sequences: 55, not 156).
    """

    def __init__(self, costs: Costs, *, num_slots: int, block_size: int):
        """Args: block_size is K, 0 for plain AR decoding."""
        self._dealer = Dealer(costs)
        self._tail = Tail(costs)
        self._estimates = SurvivalEstimates(num_slots, block_size)
        self._saved_s = 0.0
        self._num_blocks = 0
        self._num_steps = 0
        self._drafted_at = np.zeros(num_slots, dtype=np.int64)  # number of the last step with a draft
        self._record = TrackRecord()
        self._predicted: Prediction | None = None
        self._resting: np.ndarray | None = None  # slots of the last step, if nobody drafted or waited in it

    def deal(self, demand: Demand) -> Deal:
        """As in `BlockPolicy`."""
        self._num_steps += 1
        self._predicted = None
        slots, num_waiting = demand.slots, demand.num_waiting
        if not num_waiting and self._may_rest(slots, demand.caps):
            return Deal(np.zeros_like(demand.caps), 0)
        prospects = Prospects(demand, self._estimates.survival(slots), self._worth(demand))
        best = self._draft_or_not(prospects)
        if self._num_steps % TRIAL_STEPS == 1:
            best = self._trial(best, prospects) or best
        self._predicted = Prediction(bool(best.num_drafts.any()), best.seconds)
        self._drafted_at[slots[best.num_drafts > 0]] = self._num_steps
        self._resting = None if num_waiting or best.num_drafts.any() else slots
        return best

    def _worth(self, demand: Demand) -> np.ndarray:
        """Return (S,) worth of a position of each sequence."""
        if demand.remaining is None or not len(demand.caps):
            return np.ones(len(demand.caps))
        return self._tail.worth(demand.remaining, demand.contexts)

    def _draft_or_not(self, prospects: Prospects) -> PricedDeal:
        """Return the best deal, drafting held back by what it turned out to bring so far."""
        best = self._dealer.deal(prospects)
        if self._record.handicap * best.value / best.seconds >= best.plain_rate or not best.num_drafts.any():
            return best
        nobody = replace(prospects.demand, caps=np.zeros_like(prospects.demand.caps))
        return self._dealer.deal(replace(prospects, demand=nobody))

    def _may_rest(self, slots: np.ndarray, caps: np.ndarray) -> bool:
        """Whether nobody drafts without asking again: nothing was learnt since, and no trial is due."""
        if not caps.any():
            return True
        return (
            self._num_steps % TRIAL_STEPS != 1
            and self._resting is not None
            and np.array_equal(slots, self._resting)
        )

    def observe(self, slots: np.ndarray, num_drafts: np.ndarray, num_accepted: np.ndarray) -> None:
        """As in `BlockPolicy`."""
        self._num_blocks += len(slots)
        self._estimates.observe(slots, num_drafts, num_accepted)

    def time(self, seconds: float) -> None:
        """As in `BlockPolicy`."""
        if self._predicted is not None:
            self._record.note(self._predicted, seconds)
            self._predicted = None

    def forget(self, slot: int) -> None:
        """As in `BlockPolicy`."""
        self._estimates.forget(slot)
        self._drafted_at[slot] = self._num_steps

    def _trial(self, best: PricedDeal, prospects: Prospects) -> PricedDeal | None:
        """Return the best deal that drafts for the sequence left out for longest, if it was saved up for."""
        left_out = np.flatnonzero((best.num_drafts == 0) & (prospects.demand.caps > 0))
        if not len(left_out) or not (best.num_drafts.any() or self._could_pay(prospects)):
            return None
        self._saved_s += TRIAL_STEPS * EXPLORATION * best.seconds
        tried = int(left_out[self._drafted_at[prospects.demand.slots[left_out]].argmin()])
        boost = _boost(prospects.worth, tried)
        survival = prospects.survival.copy()
        survival[tried, 0] += boost
        trial = self._dealer.deal(replace(prospects, survival=survival), must_draft=True)
        value = trial.value - boost * prospects.worth[tried] * (trial.num_drafts[tried] > 0)
        handicap = 1.0 if best.num_drafts.any() else self._record.handicap
        loss_s = trial.seconds - handicap * value * best.seconds / best.value
        if loss_s > self._saved_s and self._num_blocks >= FREE_BLOCKS:
            return None
        self._saved_s = 0.0
        return replace(trial, value=value)

    def _could_pay(self, prospects: Prospects) -> bool:
        """Whether anybody would draft if every draft were sure."""
        sure = replace(prospects, survival=np.ones_like(prospects.survival))
        return bool(self._dealer.deal(sure).num_drafts.any())


def _boost(worth: np.ndarray, tried: int) -> float:
    """Return what, added to its survival, ranks a sequence's first draft before all others.

    Without it nobody is tried while others draft; +4 % where half of a few sequences turn easy.
    """
    return float(1 + worth.max() / worth[tried])
