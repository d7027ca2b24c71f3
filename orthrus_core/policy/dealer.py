"""Which budgets the forwards of a step run at, and how their token rows are shared."""

from dataclasses import dataclass

import numpy as np

from orthrus_core.engine.blocks import Costs, Deal


@dataclass(frozen=True)
class Demand:
    """What the sequences of a step could use.

    Attributes:
        survival: (S, K) of each draft of each decoding sequence, falling along K.
        caps: (S,) int64, most drafts of each.
        worth: (S,) of a position of each; a row of a prompt is worth 1.
        num_waiting: rows that prompts could use.
    """

    survival: np.ndarray
    caps: np.ndarray
    worth: np.ndarray
    num_waiting: int


@dataclass(frozen=True)
class PricedDeal(Deal):
    """A deal and what to expect of it.

    Attributes:
        value: worth of the positions that the step commits, on average.
        seconds: that it takes.
    """

    value: float
    seconds: float


class Dealer:
    """Finds the deal that commits the most positions, each times its worth, per second.

    Each row of a prompt commits one position, as the anchor of a decoding sequence does; a draft commits its
    survival. The prompts and the text of a job are a fixed number of positions, so this rate is the one that
    ends the job soonest, and it gives a prompt's row no more and no less than its due.
    """

    def __init__(self, costs: Costs):
        self._costs = costs
        self._budgets = np.array(costs.budgets)
        self._verify_s = np.array(costs.verify_s)
        rows = np.arange(costs.budgets[-1] + 1)
        at_least = np.minimum.accumulate(costs.draft_s[::-1])[::-1]  # cheapest from this rung up
        self._draft_s = at_least[np.searchsorted(self._budgets, rows)]
        self._draft_s[0] = 0.0

    def deal(self, demand: Demand, *, must_draft: bool = False) -> PricedDeal:
        """Share the rows of a step.

        Every decoding sequence has the row of its anchor. Drafts are ranked by what they gain: no other
        choice of as many gains more, and what a number of them costs is looked up, so every number is tried.
        Waiting prompts get a row at least, lest a full rung keeps them out for ever.

        Args:
            demand: of at least one sequence, S + 1 rows at most the largest budget where prompts wait.
            must_draft: leave out the deals without a draft, where another is possible.
        """
        S = len(demand.caps)
        sequence_of_draft, is_first, gains = self._rank(demand)
        free = self._budgets - S
        num_prefill = np.minimum(demand.num_waiting, free)
        counts = np.arange(len(gains) + 1)
        value = demand.worth.sum() + num_prefill[:, None] + np.concatenate([[0.0], np.cumsum(gains)])
        seconds = self._seconds(S, np.concatenate([[0], np.cumsum(is_first)]))
        is_possible = counts <= (free - num_prefill)[:, None]
        is_possible &= (free >= min(demand.num_waiting, 1))[:, None]
        if must_draft and is_possible[:, 1:].any():
            is_possible[:, 0] = False
        rates = np.where(is_possible, value / seconds, -1.0)
        rung, count = np.unravel_index(int(rates.argmax()), rates.shape)
        return PricedDeal(
            np.bincount(sequence_of_draft[:count], minlength=S),
            int(num_prefill[rung]),
            float(value[rung, count]),
            float(seconds[rung, count]),
        )

    def _seconds(self, S: int, num_drafting: np.ndarray) -> np.ndarray:
        """Return (rungs, N) seconds of a step by verify rung and number of drafts, 0 to N - 1.

        Args:
            S: sequences with an anchor.
            num_drafting: (N,) sequences that have a draft.
        """
        costs = self._costs
        verify_s = self._verify_s + costs.step_s + costs.sequence_s * S
        return verify_s[:, None] + self._draft_s[: len(num_drafting)] + costs.sequence_s * num_drafting

    def _rank(self, demand: Demand) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return sequence, whether it is the first of its sequence, and gain of each draft, best first.

        No more than the largest budget could hold.
        """
        gains_of = demand.survival * demand.worth[:, None]
        positions, sequences = np.nonzero(np.arange(gains_of.shape[1])[:, None] < demand.caps)
        gains = gains_of[sequences, positions]
        most = self._costs.budgets[-1] - len(demand.caps)
        if len(gains) > most:
            top = np.argpartition(-gains, most)[:most]
            positions, sequences, gains = positions[top], sequences[top], gains[top]
        order = np.lexsort((positions, -gains))
        return sequences[order], positions[order] == 0, gains[order]
