"""Which budgets the forwards of a step run at, and who gets their token rows."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from orthrus_core.decoding.survival import SurvivalEstimates

EXPLORATION = 0.005  # share of the time that may go into trying drafts where none seem to pay


@dataclass(frozen=True)
class Costs:
    """What a forward costs: a matter of its budget and view, not of the rows that it carries.

    Attributes:
        budgets: the ladder, token rows, ascending.
        draft_s: seconds of a draft forward at each budget.
        verify_s: seconds of a verify forward at each budget.
        step_s: seconds that every step takes beside its forwards.
        sequence_s: seconds that each sequence with rows in a forward adds to it.
    """

    budgets: tuple[int, ...]
    draft_s: tuple[float, ...]
    verify_s: tuple[float, ...]
    step_s: float = 0.0
    sequence_s: float = 0.0

    def __post_init__(self) -> None:
        if not len(self.budgets) == len(self.draft_s) == len(self.verify_s) > 0:
            raise ValueError(
                f"costs need draft_s and verify_s for each budget, got {len(self.budgets)} budgets, "
                f"{len(self.draft_s)} draft_s, {len(self.verify_s)} verify_s"
            )
        if list(self.budgets) != sorted(set(self.budgets)) or self.budgets[0] < 1:
            raise ValueError(f"costs.budgets must be positive and ascending, got {self.budgets}")
        if min(*self.draft_s, *self.verify_s) <= 0 or self.step_s < 0 or self.sequence_s < 0:
            raise ValueError("costs must be > 0 for forwards and >= 0 for the rest")

    @classmethod
    def unmeasured(cls, token_budget: int) -> "Costs":
        """One rung, both views the same."""
        return cls((token_budget,), (1.0,), (1.0,))

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
        positions: that the step commits, on average.
        seconds: that it takes.
    """

    positions: float
    seconds: float


class Dealer:
    """Finds the deal that commits the most positions per second.

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

    def deal(
        self, survival: np.ndarray, caps: np.ndarray, num_waiting: int, *, must_draft: bool = False
    ) -> PricedDeal:
        """Share the rows of a step.

        Every decoding sequence has the row of its anchor. Drafts are ranked by survival: no other choice of
        as many commits more, and what a number of them costs is looked up, so every number is tried. Waiting
        prompts get a row at least, lest a full rung keeps them out for ever.

        Args:
            survival: (S, K), falling along K.
            caps: (S,) int64, most drafts of each sequence.
            num_waiting: rows that prompts could use.
            must_draft: leave out the deals without a draft; some sequence has a cap above 0.
        """
        S = len(caps)
        sequence_of_draft, is_first, gains = self._rank(survival, caps)
        free = self._budgets - S
        num_prefill = np.minimum(num_waiting, free)
        counts = np.arange(len(gains) + 1)
        positions = S + num_prefill[:, None] + np.concatenate([[0.0], np.cumsum(gains)])
        costs = self._costs
        drafting = np.concatenate([[0], np.cumsum(is_first)])
        draft_s = self._draft_s[counts] + costs.sequence_s * drafting
        seconds = (self._verify_s + costs.step_s + costs.sequence_s * S)[:, None] + draft_s
        is_possible = (counts <= (free - num_prefill)[:, None]) & (free >= min(num_waiting, 1))[:, None]
        if must_draft:
            is_possible[:, 0] = False
        rates = np.where(is_possible, positions / seconds, -1.0)
        rung, count = np.unravel_index(int(rates.argmax()), rates.shape)
        return PricedDeal(
            np.bincount(sequence_of_draft[:count], minlength=S),
            int(num_prefill[rung]),
            float(positions[rung, count]),
            float(seconds[rung, count]),
        )

    def _rank(self, survival: np.ndarray, caps: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the sequence, whether it is the first of its sequence, and the survival of each draft.

        The likeliest come first; no more than the largest budget could hold.
        """
        positions, sequences = np.nonzero(np.arange(survival.shape[1])[:, None] < caps)
        gains = survival[sequences, positions]
        most = self._costs.budgets[-1] - len(caps)
        if len(gains) > most:
            top = np.argpartition(-gains, most)[:most] if most else np.zeros(0, dtype=np.int64)
            positions, sequences, gains = positions[top], sequences[top], gains[top]
        order = np.lexsort((positions, -gains))
        return sequences[order], positions[order] == 0, gains[order]


class BlockPolicy(Protocol):
    """Decides how many rows drafts and prompts get."""

    def deal(self, slots: np.ndarray, caps: np.ndarray, num_waiting: int) -> Deal:
        """Share the rows of a step; arguments as in `Dealer.deal`, `slots` (S,) int64."""

    def observe(self, slots: np.ndarray, num_drafts: np.ndarray, num_accepted: np.ndarray) -> None:
        """Learn from a step; arguments as in `SurvivalEstimates.observe`."""

    def forget(self, slot: int) -> None:
        """The sequence of a slot leaves."""


class AdaptiveBlocks:
    """Deals by estimated survival and measured costs.

    A sequence that gets no drafts would not be learnt about any more, so the one left out for longest gets a
    draft all the same once the time saved up for trials, a share of all time, covers what that is expected to
    lose. Where nobody drafts, this happens only if sure drafts would pay. The first trial of a run is free.
    """

    def __init__(self, costs: Costs, *, num_slots: int, block_size: int):
        """Args: block_size is K, 0 for plain AR decoding."""
        self._dealer = Dealer(costs)
        self._estimates = SurvivalEstimates(num_slots, block_size)
        self._saved_s = float("inf")
        self._num_steps = 0
        self._drafted_at = np.zeros(num_slots, dtype=np.int64)  # number of the last step with a draft

    def deal(self, slots: np.ndarray, caps: np.ndarray, num_waiting: int) -> Deal:
        """As in `BlockPolicy`."""
        self._num_steps += 1
        survival = self._estimates.survival(slots)
        best = self._dealer.deal(survival, caps, num_waiting)
        left_out = np.flatnonzero((best.num_drafts == 0) & (caps > 0))
        if len(left_out) and (best.num_drafts.any() or self._could_pay(caps, num_waiting, survival)):
            self._saved_s += EXPLORATION * best.seconds
            tried = left_out[self._drafted_at[slots[left_out]].argmin()]
            best = self._trial(best, tried, survival, caps, num_waiting) or best
        self._drafted_at[slots[best.num_drafts > 0]] = self._num_steps
        return best

    def observe(self, slots: np.ndarray, num_drafts: np.ndarray, num_accepted: np.ndarray) -> None:
        """As in `BlockPolicy`."""
        self._estimates.observe(slots, num_drafts, num_accepted)

    def forget(self, slot: int) -> None:
        """As in `BlockPolicy`."""
        self._estimates.forget(slot)
        self._drafted_at[slot] = self._num_steps

    def _could_pay(self, caps: np.ndarray, num_waiting: int, survival: np.ndarray) -> bool:
        return bool(self._dealer.deal(np.ones_like(survival), caps, num_waiting).num_drafts.any())

    def _trial(
        self, best: PricedDeal, tried: int, survival: np.ndarray, caps: np.ndarray, num_waiting: int
    ) -> PricedDeal | None:
        """Return the best deal that gives a sequence a draft, if what it loses was saved up."""
        boosted = survival.copy()
        boosted[tried, 0] = 2.0  # ranked first
        trial = self._dealer.deal(boosted, caps, num_waiting, must_draft=True)
        positions = trial.positions - boosted[tried, 0] + survival[tried, 0]
        loss_s = trial.seconds - positions * best.seconds / best.positions
        if loss_s > self._saved_s:
            return None
        self._saved_s = 0.0
        return trial


class FixedBlocks:
    """Gives everybody a whole block, or an even share where the largest budget cannot hold that.

    Prompts get half of the largest budget at most while others decode, and the rows that a rung has to spare.
    """

    def __init__(self, costs: Costs):
        self._costs = costs

    def deal(self, slots: np.ndarray, caps: np.ndarray, num_waiting: int) -> Deal:
        """As in `BlockPolicy`."""
        S, T = len(caps), self._costs.budgets[-1]
        most = max(1, min(T - S, T // 2)) if caps.any() else T - S
        num_prefill = min(num_waiting, most)
        num_drafts = share_evenly(caps, T - S - num_prefill)
        total = int(num_drafts.sum())
        budget = self._costs.verify_budget(S + num_prefill + total)
        num_prefill = min(num_waiting, budget - S - total)
        return Deal(num_drafts, num_prefill)

    def observe(self, slots: np.ndarray, num_drafts: np.ndarray, num_accepted: np.ndarray) -> None:
        """Nothing depends on the outcomes."""

    def forget(self, slot: int) -> None:
        """Nothing is remembered."""


def share_evenly(caps: np.ndarray, num_rows: int) -> np.ndarray:
    """Return (S,) int64 rows for each sequence, at most `caps`, as even as they allow."""
    counts = np.zeros_like(caps)
    for num_served, index in enumerate(np.argsort(caps, kind="stable")):
        counts[index] = min(caps[index], num_rows // (len(caps) - num_served))
        num_rows -= counts[index]
    return counts
