"""Which budgets the forwards of a step run at, and how their token rows are shared."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Costs:
    """What a forward costs: a matter of its budget and view, not of the rows that it carries.

    Attributes:
        budgets: the ladder, token rows, ascending.
        draft_s: seconds of a draft forward at each budget.
        verify_s: seconds of a verify forward at each budget.
        step_s: seconds that every step takes beside its forwards.
        sequence_s: seconds that each sequence with rows in a forward adds to it.
        is_measured: whether seconds are seconds, and not a guess that all forwards cost the same.
    """

    budgets: tuple[int, ...]
    draft_s: tuple[float, ...]
    verify_s: tuple[float, ...]
    step_s: float = 0.0
    sequence_s: float = 0.0
    is_measured: bool = True

    def __post_init__(self) -> None:
        if not len(self.budgets) == len(self.draft_s) == len(self.verify_s) > 0:
            raise ValueError(
                f"costs need draft_s and verify_s for each budget, got {len(self.budgets)} budgets, "
                f"{len(self.draft_s)} draft_s, {len(self.verify_s)} verify_s"
            )
        if list(self.budgets) != sorted(set(self.budgets)) or self.budgets[0] < 1:
            raise ValueError(f"costs.budgets must be positive and ascending, got {self.budgets}")
        if min(*self.draft_s, *self.verify_s) <= 0:
            raise ValueError(
                f"costs.draft_s and verify_s must be > 0, got {self.draft_s} and {self.verify_s}"
            )
        if min(self.step_s, self.sequence_s) < 0:
            raise ValueError(
                f"costs.step_s and sequence_s must be >= 0, got {self.step_s} and {self.sequence_s}"
            )

    @classmethod
    def unmeasured(cls, token_budget: int) -> "Costs":
        """One rung, both views the same."""
        return cls((token_budget,), (1.0,), (1.0,), is_measured=False)

    def draft_budget(self, num_rows: int) -> int:
        """Return the cheapest budget of a draft forward with this many rows; 0 for none."""
        return self._cheapest(self.draft_s, num_rows) if num_rows else 0

    def verify_budget(self, num_rows: int) -> int:
        """Return the cheapest budget of a verify forward with this many rows."""
        return self._cheapest(self.verify_s, num_rows)

    def _cheapest(self, seconds: tuple[float, ...], num_rows: int) -> int:
        if num_rows > self.budgets[-1]:
            raise ValueError(f"{num_rows} token rows, the largest budget is {self.budgets[-1]}")
        return min((s, b) for s, b in zip(seconds, self.budgets, strict=True) if b >= num_rows)[1]


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
class Deal:
    """How the rows of one step are shared.

    Attributes:
        num_drafts: (S,) int64, drafts of each decoding sequence.
        num_prefill: rows for prompts, the rows of their anchors among them.
    """

    num_drafts: np.ndarray
    num_prefill: int


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
