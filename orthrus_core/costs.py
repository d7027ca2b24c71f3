"""What the forwards of an engine cost in time."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class CellCosts(NamedTuple):
    """Seconds per cell of the cache that a forward reads.

    Attributes:
        sequence_s: per cell of each sequence with rows, however many these are: keys and values are read.
        row_s: per cell and row that sees it: scores and sums are computed.
    """

    sequence_s: float = 0.0
    row_s: float = 0.0


@dataclass(frozen=True)
class Costs:
    """What a forward costs: a matter of its view, its budget, the cells read, and the rows that choose.

    Attributes:
        budgets: the ladder, token rows, ascending.
        draft_s: seconds of a draft forward at each budget, all rows of which choose, but for its cells.
        verify_s: seconds of the layers of a verify forward at each budget, but for its cells.
        head_s: seconds of reading out so many of its rows, at each budget up to `most_choosing`.
        most_choosing: rows of a forward that may choose; 0: as many as the largest budget. Budgets beyond it
            are for prompts.
        both_s: seconds that a forward of both views takes beside a verify forward of as many rows; None: it
            is not to be had.
        any_split: whether such a forward may have any number of rows of each view; else those of blocks are
            a rung or three quarters of all.
        draft_cells: what reading the cache adds to a draft forward.
        verify_cells: what it adds to a verify forward.
        step_s: seconds that every step takes beside its forwards.
        sequence_s: seconds that each sequence with rows in a forward adds to it.
        is_measured: whether seconds are seconds, and not a guess that all forwards cost the same.
    """

    budgets: tuple[int, ...]
    draft_s: tuple[float, ...]
    verify_s: tuple[float, ...]
    draft_cells: CellCosts = CellCosts()
    verify_cells: CellCosts = CellCosts()
    step_s: float = 0.0
    sequence_s: float = 0.0
    is_measured: bool = True
    head_s: tuple[float, ...] = ()
    most_choosing: int = 0
    both_s: float | None = None
    any_split: bool = True

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

    @property
    def choosing_budgets(self) -> tuple[int, ...]:
        """The sizes R that the head of a forward may have, ascending."""
        most = self.most_choosing or self.budgets[-1]
        return tuple(budget for budget in self.budgets if budget <= most)

    @property
    def whole_verify_s(self) -> tuple[float, ...]:
        """Seconds of a verify forward at each budget that reads out all rows that may choose."""
        most = self.choosing_budgets[-1]
        pairs = zip(self.budgets, self.verify_s, strict=True)
        return tuple(seconds + self.reading_s(min(budget, most)) for budget, seconds in pairs)

    def reading_s(self, num_rows: int) -> float:
        """Return the seconds of reading out this many rows of a verify forward."""
        return self.head_s[self.budgets.index(self.choice_budget(num_rows))] if self.head_s else 0.0

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

    def choice_budget(self, num_rows: int) -> int:
        """Return the smallest budget that holds this many rows, be there none."""
        return next(budget for budget in self.choosing_budgets if budget >= num_rows)

    def block_rows(self, num_rows: np.ndarray, budget: np.ndarray) -> np.ndarray:
        """Return the rows that so many of blocks take up in a forward of `budget` rows of both views."""
        if self.any_split:
            return num_rows
        rungs, part = np.array(self.budgets), budget - budget // 4
        rung = rungs[np.minimum(np.searchsorted(rungs, num_rows), len(rungs) - 1)]
        return (num_rows > 0) * np.where(num_rows <= part, np.minimum(rung, part), np.maximum(rung, num_rows))

    def most_block_rows(self, num_rows: int) -> int:
        """Return how many rows of blocks fit beside so many others in the largest forward of both views."""
        T = self.budgets[-1]
        sizes = (T - num_rows,) if self.any_split else (*self.budgets[:-1], T - T // 4)
        return max((size for size in sizes if num_rows + size <= T), default=0)

    def both_budgets(self, num_rows: int, num_block_rows: int) -> tuple[int, int]:
        """Return the rows of each view in the cheapest forward with this many of each."""
        if not num_block_rows:
            return self.verify_budget(num_rows), 0
        budgets = np.array(self.budgets)
        blocks = self.block_rows(np.array(num_block_rows), budgets)
        fitting = np.flatnonzero(num_rows + blocks <= budgets)
        if not len(fitting):
            return num_rows, self.verify_budget(num_rows + num_block_rows) - num_rows
        place = fitting[np.array(self.verify_s)[fitting].argmin()]
        own = int(np.broadcast_to(blocks, budgets.shape)[place])
        return int(budgets[place]) - own, own

    def _cheapest(self, seconds: tuple[float, ...], num_rows: int) -> int:
        if num_rows > self.budgets[-1]:
            raise ValueError(f"{num_rows} token rows, the largest budget is {self.budgets[-1]}")
        return min((s, b) for s, b in zip(seconds, self.budgets, strict=True) if b >= num_rows)[1]
