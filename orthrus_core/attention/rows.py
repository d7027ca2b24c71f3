"""The T token rows of a forward as attention sees them: where each row's K/V goes and what it may see."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

LINES = ("token_ids", "cells", "slots", "limits", "positions")
SEES_NOTHING = -1


@dataclass(frozen=True)
class SpanRows:
    """The rows in use, on the host: S spans of consecutive positions, one after the other.

    Attributes:
        counts: (S,) int64, rows of each span.
        span_slots: (S,) int64, each span's line in the page tables.
        positions: (rows,) int64.
        limits: (rows,) int64, last cell that each row sees.
        page_tables: (slots, pages per sequence) int64.
        page_size: cells of a page.
        causal: whether every limit is the row's own position (AR view) or the end of its span.
    """

    counts: np.ndarray
    span_slots: np.ndarray
    positions: np.ndarray
    limits: np.ndarray
    page_tables: np.ndarray
    page_size: int
    causal: bool


@dataclass(frozen=True)
class TokenRows:
    """One forward's rows, on the device.

    Attributes:
        packed: (5, T) int64, the lines that `LINES` names. Rows left over write to the scratch page and have
            the limit SEES_NOTHING.
        num_used: rows that carry a token; the rest are padding.
        arrangement: what the attention backend made of the rows; None if it needs nothing else.
    """

    packed: Tensor
    num_used: int
    arrangement: Any = None

    @property
    def token_ids(self) -> Tensor:
        """(T,) int64."""
        return self.packed[0]

    @property
    def cells(self) -> Tensor:
        """(T,) int64, page * page_size + offset: where each row's K/V is written."""
        return self.packed[1]

    @property
    def slots(self) -> Tensor:
        """(T,) int64, each row's line in the page tables."""
        return self.packed[2]

    @property
    def limits(self) -> Tensor:
        """(T,) int64, last cell of its own sequence that each row sees."""
        return self.packed[3]

    @property
    def positions(self) -> Tensor:
        """(T,) int64."""
        return self.packed[4]


def count_up(counts: np.ndarray) -> np.ndarray:
    """Return 0 .. count-1 for each count, one after the other."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
