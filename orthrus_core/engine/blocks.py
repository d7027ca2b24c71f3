"""How many drafts and prompt rows a step gets: the seam for policies, and whole blocks for everybody."""

from dataclasses import dataclass
from typing import Protocol

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
class Deal:
    """How the rows of one step are shared.

    Attributes:
        num_drafts: (S,) int64, drafts of each decoding sequence.
        num_prefill: rows for prompts, the rows of their anchors among them.
    """

    num_drafts: np.ndarray
    num_prefill: int


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
        """Learn from a step; called after every step, with the sequences that drafted in it, if any.

        Args:
            slots: (S,) int64.
            num_drafts: (S,) int64, at least 1.
            num_accepted: (S,) int64, at most `num_drafts`.
        """

    def time(self, seconds: float) -> None:
        """Learn how long the step took."""

    def forget(self, slot: int) -> None:
        """The sequence of a slot leaves."""


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

    def time(self, seconds: float) -> None:
        """Nor on the clock."""

    def forget(self, slot: int) -> None:
        """Nothing is remembered."""


def share_evenly(caps: np.ndarray, num_rows: int) -> np.ndarray:
    """Return (S,) int64 rows for each sequence, at most `caps`, as even as they allow."""
    counts = np.zeros_like(caps)
    for num_served, index in enumerate(np.argsort(caps, kind="stable")):
        counts[index] = min(caps[index], num_rows // (len(caps) - num_served))
        num_rows -= counts[index]
    return counts
