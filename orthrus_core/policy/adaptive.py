"""Adaptive blocks: drafts where they pay, by estimated acceptance and measured costs."""

from dataclasses import dataclass, replace

import numpy as np

from orthrus_core.costs import Costs
from orthrus_core.engine.blocks import Deal, Demand, Offer
from orthrus_core.policy.ahead import AheadDealer
from orthrus_core.policy.dealer import Dealer, PricedDeal, Prospects
from orthrus_core.policy.patience import Patience
from orthrus_core.policy.record import Kind, TrackRecord
from orthrus_core.policy.survival import SurvivalEstimates
from orthrus_core.policy.tail import Tail

FREE_BLOCKS = 8  # a bad beginning alone shall not decide for the rest of a run; +2 % where text turns hard
REST_STEPS = 8  # with nobody's drafts, before a step is dealt anew though prompts are coming in
REVIEW_STEPS = 8  # drafting ahead and trials are thought of this often: it costs several deals
MOST_REVIEW_STEPS = 64  # while reviews of 8 and more sequences find nothing, each waits twice as long
INERTIA = 1.05  # drafting ahead begins with a step without drafts, every time
EXPLORATION = 0.005  # share of the time that trials may lose; +21 % where text turns easy


@dataclass(frozen=True)
class _Rest:
    """Steps in which nobody drafts, none of them dealt anew.

    Attributes:
        slots: (S,) int64 of the step that was dealt last.
        prompts_wait: whether prompts could use rows of it.
        began_at: its number.
    """

    slots: np.ndarray
    prompts_wait: bool
    began_at: int


class AdaptiveBlocks:
    """A `BlockPolicy` that deals by estimated survival and measured costs.

    A sequence that gets no drafts would not be learnt about any more, so the one left out for longest gets a
    draft all the same once the time saved up for trials, a share of all time, covers what that is expected to
    lose. Where nobody drafts, this happens only if sure drafts would pay. Trials are free until a run has
    seen some blocks. When nobody drafts, the next steps of the same sequences are not dealt anew until the
    next review; while prompts come in, sequences change in every step, and a few steps are not.

    Drafts that were looked up need no trials, since they are learnt about in any case. They are taken where
    they bring more than blocks, alone or beside the blocks of others.
    """

    def __init__(self, costs: Costs, *, num_slots: int, block_size: int):
        """Args: block_size is K, 0 where the diffusion view drafts nothing."""
        self._dealer = Dealer(costs)
        self._ahead = (
            AheadDealer(costs, num_slots=num_slots, block_size=block_size) if block_size > 1 else None
        )
        self._tail = Tail(costs)
        self._estimates = SurvivalEstimates(num_slots, block_size)
        self._saved_s = 0.0
        self._num_blocks = 0
        self._num_steps = 0
        self._drafted_at = np.zeros(num_slots, dtype=np.int64)  # number of the last step with a draft
        self._record = TrackRecord()
        self._patience = Patience()
        self._predicted: tuple[Kind, float] | None = None  # of the step, and its seconds
        self._searched_s = 0.0  # in this step, for drafts to look up
        self._is_ahead = False  # whether the last step with sequences drafted for the next one
        self._num_ahead = 0  # sequences of the last step, if it did, and not as the first of several
        self._rest: _Rest | None = None
        self._undealt: Demand | None = None  # of the last step, if it went without drafts and thought
        self._review_at, self._review_steps = 1, REVIEW_STEPS  # number of a step, and steps since the last

    def deal(self, demand: Demand) -> Deal:
        """As in `BlockPolicy`."""
        self._num_steps += 1
        self._predicted, self._searched_s, self._undealt = None, 0.0, None
        if (going_on := self._go_on(demand)) is not None:
            return self._expect(going_on, demand.slots)
        self._num_ahead = 0
        offer, rests = self._offer(demand), self._may_rest(demand, self._num_steps)
        if rests and offer is None:
            deal = self._at_rest(demand)
            return deal if self._undealt is demand else self._expect(deal, demand.slots)
        prospects = self._prospects(demand, rests=rests)
        best = self._dealer.plain(prospects) if rests else self._draft_or_not(prospects)
        found = best if offer is None else self._with_lookup(best, prospects, offer)
        if rests:
            return self._expect(found, demand.slots)
        deal, has_block = found, bool(best.num_drafts.any())
        if self._num_steps >= self._review_at:
            other = self._drafting_ahead(found, prospects) or self._trial(found, prospects)
            deal, has_block = other or found, has_block or other is not None
            most = REVIEW_STEPS if has_block else min(REVIEW_STEPS * len(demand.slots), MOST_REVIEW_STEPS)
            self._review_steps = min(2 * self._review_steps, most)
            self._review_at = self._num_steps + self._review_steps
        is_idle = demand.caps.any() and not has_block
        self._rest = _Rest(demand.slots, demand.num_waiting > 0, self._num_steps) if is_idle else None
        return self._expect(deal, demand.slots)

    def rest(self, demand: Demand | None) -> Deal | None:
        """As in `BlockPolicy`."""
        demand, step = demand or self._undealt, self._num_steps + 1
        if demand is None or not self._may_rest(demand, step):
            return None
        if demand.look_up is not None and self._patience.should_look(step):
            return None
        self._num_steps = step
        return self._at_rest(demand)

    def _at_rest(self, demand: Demand) -> PricedDeal:
        """Return a deal without drafts; where no prompt waits there is nothing to weigh."""
        if not demand.num_waiting:
            self._undealt = demand
            return PricedDeal(np.zeros_like(demand.caps), 0, value=0.0, seconds=0.0, plain_rate=0.0)
        self._undealt = None
        return self._dealer.plain(self._prospects(demand, rests=True))

    def _prospects(self, demand: Demand, *, rests: bool = False) -> Prospects:
        """Return what rows may bring; whoever rests has no block to survive."""
        survival = np.zeros((len(demand.slots), 0)) if rests else self._estimates.survival(demand.slots)
        return Prospects(demand, survival, self._worth(demand))

    def _offer(self, demand: Demand) -> Offer | None:
        """Return what lookup has, if it is worth asking; None: nothing."""
        if demand.look_up is None or not self._patience.should_look(self._num_steps):
            return None
        offer = demand.look_up()
        self._searched_s = offer.seconds
        if offer.counts.any():
            return offer
        self._patience.note(saved_s=0.0, taken_s=offer.seconds)
        return None

    def _expect(self, deal: PricedDeal, slots: np.ndarray) -> PricedDeal:
        """Remember what to expect of a deal, and whose blocks it has."""
        # the search is the business of patience: held against lookup here, it would count twice
        self._predicted = _kind_of(deal), deal.seconds + self._searched_s
        is_ahead = deal.blocks is not None
        self._num_ahead = len(slots) if is_ahead and self._is_ahead else 0
        if len(slots):
            self._is_ahead = is_ahead
        self._drafted_at[slots[_has_block(deal)]] = self._num_steps
        return deal

    def _worth(self, demand: Demand) -> np.ndarray:
        """Return (S,) worth of a position of each sequence."""
        if demand.remaining is None or not len(demand.caps):
            return np.ones(len(demand.caps))
        return self._tail.worth(demand.remaining, demand.contexts)

    def _draft_or_not(self, prospects: Prospects) -> PricedDeal:
        """Return the best deal, drafting held back by what it turned out to bring so far."""
        best = self._dealer.deal(prospects)
        return best if self._rate(best) >= best.plain_rate else self._dealer.plain(prospects)

    def _rate(self, deal: PricedDeal) -> float:
        """Return the value per second of a deal, by what deals of its kind turned out to take."""
        return self._record.handicap(_kind_of(deal)) * deal.value / deal.seconds

    def _with_lookup(self, best: PricedDeal, prospects: Prospects, offer: Offer) -> PricedDeal:
        """Return the best of a deal without lookup, one with lookup alone, and one with both."""
        brings = (offer.survival * (np.arange(offer.survival.shape[1]) < offer.counts[:, None])).sum(axis=1)
        deals = [best, self._deal_offer(prospects, offer, offer.counts >= 0)]
        if best.num_drafts.any():
            blocks = np.arange(prospects.survival.shape[1]) < prospects.demand.caps[:, None]
            is_better = brings > (prospects.survival * blocks).sum(axis=1)
            if is_better.any():
                deals.append(self._deal_offer(prospects, offer, is_better))
        found = max(deals, key=self._rate)
        saved_s = found.seconds * (self._rate(found) / self._rate(best) - 1.0)
        self._patience.note(saved_s=saved_s, taken_s=offer.seconds)
        return found

    def _deal_offer(self, prospects: Prospects, offer: Offer, is_lookup: np.ndarray) -> PricedDeal:
        """Return the best deal where some sequences (S,) may take what is offered and the others a block."""
        demand, depth = prospects.demand, max(prospects.survival.shape[1], offer.survival.shape[1])
        own, offered = (_widened(one, depth) for one in (prospects.survival, offer.survival))
        mixed = Prospects(
            replace(demand, caps=np.where(is_lookup, offer.counts, demand.caps)),
            np.where(is_lookup[:, None], offered, own),
            prospects.worth,
            is_lookup,
        )
        deal = self._dealer.deal(mixed)
        return replace(deal, offer=offer, is_lookup=is_lookup & (deal.num_drafts > 0))

    def _drafting_ahead(self, best: PricedDeal, prospects: Prospects) -> PricedDeal | None:
        """Return a step that drafts for the next one, if it may and beats the best one that does not."""
        if self._ahead is None or prospects.demand.at_hand is None or not len(prospects.worth):
            return None
        ahead = self._ahead.deal(_at_hand(prospects), best.plain_rate)
        inertia = INERTIA if self._is_ahead else 1 / INERTIA
        return ahead if inertia * self._rate(ahead) > self._rate(best) else None

    def _go_on(self, demand: Demand) -> PricedDeal | None:
        """Return a step that drafts ahead as the last one did; None when that is to be thought over.

        Which it is every few steps: it takes three times as long, with the best other step five times.
        """
        if not self._is_ahead or not len(demand.slots) or self._num_steps >= self._review_at:
            return None
        if self._ahead is None or demand.at_hand is None:
            return None
        return self._ahead.go_on(_at_hand(self._prospects(demand)))

    def _may_rest(self, demand: Demand, step: int) -> bool:
        """Whether nobody drafts without asking again: nothing was learnt since, and no review is due."""
        if not demand.caps.any():
            return True
        rest = self._rest
        if rest is None or step >= self._review_at:
            return False
        if demand.num_waiting:
            return rest.prompts_wait and step - rest.began_at < REST_STEPS
        return not rest.prompts_wait and np.array_equal(demand.slots, rest.slots)

    def observe(self, slots: np.ndarray, num_drafts: np.ndarray, num_accepted: np.ndarray) -> None:
        """As in `BlockPolicy`."""
        self._num_blocks += len(slots)
        if self._ahead is not None and self._num_ahead:
            self._ahead.observe(self._num_ahead, int(num_accepted.sum()))
        if self._is_ahead:  # the first row of their block had guessed right where any draft stands
            num_drafts, num_accepted = num_drafts + 1, num_accepted + (num_accepted > 0)
        self._estimates.observe(slots, num_drafts, num_accepted)

    def time(self, seconds: float) -> None:
        """As in `BlockPolicy`."""
        if self._predicted is not None:
            self._record.note(*self._predicted, seconds)
            self._predicted = None

    def forget(self, slot: int) -> None:
        """As in `BlockPolicy`."""
        self._estimates.forget(slot)
        self._drafted_at[slot] = self._num_steps

    def _trial(self, best: PricedDeal, prospects: Prospects) -> PricedDeal | None:
        """Return the best deal with a block for the sequence left out for longest, if it was saved up for."""
        has_block = _has_block(best)
        left_out = np.flatnonzero(~has_block & (prospects.demand.caps > 0))
        if not len(left_out) or not (has_block.any() or self._could_pay(prospects)):
            return None
        self._saved_s += self._review_steps * EXPLORATION * best.seconds
        tried = int(left_out[self._drafted_at[prospects.demand.slots[left_out]].argmin()])
        boost = _boost(prospects.worth, tried)
        survival = prospects.survival.copy()
        survival[tried, 0] += boost
        trial = self._dealer.deal(replace(prospects, survival=survival), must_draft=True)
        value = trial.value - boost * prospects.worth[tried] * (trial.num_drafts[tried] > 0)
        handicap = 1.0 if has_block.any() else self._record.handicap(Kind.BLOCKS)
        loss_s = trial.seconds - handicap * value * best.seconds / best.value
        if loss_s > self._saved_s and self._num_blocks >= FREE_BLOCKS:
            return None
        self._saved_s = 0.0
        return replace(trial, value=value)

    def _could_pay(self, prospects: Prospects) -> bool:
        """Whether anybody would draft if every draft were sure."""
        sure = replace(prospects, survival=np.ones_like(prospects.survival))
        return bool(self._dealer.deal(sure).num_drafts.any())


def _kind_of(deal: PricedDeal) -> Kind:
    """Return what a step of this deal is."""
    if deal.blocks is not None:
        return Kind.AHEAD
    if not deal.num_drafts.any():
        return Kind.PLAIN
    return Kind.BLOCKS if _has_block(deal).any() else Kind.LOOKUP


def _has_block(deal: PricedDeal) -> np.ndarray:
    """Return (S,) bool, whose drafts are of the diffusion view."""
    is_drafted = deal.num_drafts > 0
    return is_drafted if deal.is_lookup is None else is_drafted & ~deal.is_lookup


def _at_hand(prospects: Prospects) -> Prospects:
    """Return what drafts at hand may bring: the first row of their block had to guess right, too.

    One forward for both would hold the misses of these rows against the first drafts of blocks.
    """
    return replace(prospects, survival=np.pad(prospects.survival[:, 1:], ((0, 0), (0, 1))))


def _widened(survival: np.ndarray, depth: int) -> np.ndarray:
    """Return (S, depth) of (S, L), 0 behind the last draft."""
    widened = np.zeros((len(survival), depth))
    widened[:, : survival.shape[1]] = survival
    return widened


def _boost(worth: np.ndarray, tried: int) -> float:
    """Return what, added to its survival, ranks a sequence's first draft before all others.

    Without it nobody is tried while others draft; +4 % where half of a few sequences turn easy.
    """
    return float(1 + worth.max() / worth[tried])
