"""The T token rows of a forward as attention sees them: where each row's K/V goes and what it may see."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from orthrus_core.attention.view import View
from orthrus_core.transfer import stage

LINES = ("token_ids", "cells", "slots", "limits", "positions")
SEES_NOTHING = -1


class Span(NamedTuple):
    """Consecutive positions of one sequence that run in one forward.

    Attributes:
        slot: the sequence's row in the page tables.
        start: position of the first token.
        token_ids: one token per position.
    """

    slot: int
    start: int
    token_ids: Sequence[int]


@dataclass(frozen=True)
class Spans:
    """S spans as arrays, one after the other.

    Attributes:
        slots: (S,) int64.
        starts: (S,) int64.
        counts: (S,) int64, tokens of each.
        token_ids: (rows,) int64.
    """

    slots: np.ndarray
    starts: np.ndarray
    counts: np.ndarray
    token_ids: np.ndarray

    @classmethod
    def of(cls, spans: Sequence[Span]) -> "Spans":
        """Gather spans."""
        facts = [(span.slot, span.start, len(span.token_ids)) for span in spans]
        slots, starts, counts = np.array(facts, dtype=np.int64).reshape(-1, 3).T
        ids = np.fromiter(chain.from_iterable(span.token_ids for span in spans), np.int64)
        return cls(slots, starts, counts, ids)


@dataclass(frozen=True)
class SpanRows:
    """The rows in use, on the host: S spans of consecutive positions, one after the other.

    Attributes:
        token_ids: (rows,) int64.
        counts: (S,) int64, rows of each span.
        span_slots: (S,) int64, each span's line in the page tables.
        positions: (rows,) int64.
        limits: (rows,) int64, last cell that each row sees.
        page_tables: (slots, pages per sequence) int64.
        page_size: cells of a page.
        causal: whether every limit is the row's own position (AR view) or the end of its span.
    """

    token_ids: np.ndarray
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
        packed: (5, T) int64, the lines that `LINES` names. A row's cell, page * page_size + offset, is where
            its K/V is written, its slot the line in the page tables, its limit the last cell of its own
            sequence that it sees. Rows left over write to the scratch page and have the limit SEES_NOTHING.
        num_used: rows that carry a token; the rest are padding.
        arrangement: what the attention backend made of the rows; None if it needs nothing else.
        choosing: (R,) int64, the rows that choose a token, padded with others; None: all T.
    """

    packed: Tensor
    num_used: int
    arrangement: Any = None
    choosing: Tensor | None = None

    def chosen(self, of_rows: Tensor) -> Tensor:
        """Return what belongs to the rows that choose, (R, ...) of (T, ...)."""
        return of_rows if self.choosing is None else of_rows.index_select(0, self.choosing)

    @property
    def token_ids(self) -> Tensor:
        """(T,) int64."""
        return self.packed[0]

    @property
    def positions(self) -> Tensor:
        """(T,) int64."""
        return self.packed[4]


def count_up(counts: np.ndarray) -> np.ndarray:
    """Return 0 .. count-1 for each count, one after the other."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


class RowBuffer:
    """The T packed rows of one forward, allocated once: host memory and, on another device, its copy."""

    def __init__(self, num_rows: int, device: torch.device):
        self.num_rows = num_rows
        self.array = np.zeros((len(LINES), num_rows), dtype=np.int64)
        self._rows = torch.from_numpy(self.array).to(device)

    def to_device(self) -> torch.Tensor:
        """Return (5, T) on the device, always at the same address."""
        if self._rows.device.type != "cpu":
            self._rows.copy_(stage(self.array, self._rows.device), non_blocking=True)
        return self._rows


def span_rows(
    spans: Spans | Sequence[Span], *, view: View, page_tables: np.ndarray, page_size: int
) -> SpanRows:
    """Say which positions run and what they see.

    The limit is the one rule on what a row may see: its own cell in the AR view (causal), the last cell of
    its span in the diffusion view (the whole block, both directions).

    Args:
        page_tables: (slots, pages per sequence) int64.
        page_size: cells per page.
    """
    spans = spans if isinstance(spans, Spans) else Spans.of(spans)
    counts = spans.counts
    positions = np.repeat(spans.starts, counts) + count_up(counts)
    limits = positions if view == "ar" else np.repeat(spans.starts + counts - 1, counts)
    return SpanRows(
        spans.token_ids, counts, spans.slots, positions, limits, page_tables, page_size, causal=view == "ar"
    )


def fill(buffer: RowBuffer, rows: SpanRows) -> int:
    """Write the rows into a buffer, in the order of the spans, the rows left over behind them.

    Returns:
        The number of rows in use.
    Raises:
        ValueError: there are none, or more than the buffer has.
    """
    num_used, T = len(rows.positions), buffer.num_rows
    if not 0 < num_used <= T:
        raise ValueError(f"spans hold {num_used} token rows, the token budget is {T}")
    token_ids, cells, slots, limits, positions = buffer.array
    token_ids[:num_used] = rows.token_ids
    slots[:num_used] = np.repeat(rows.span_slots, rows.counts)
    pages = rows.page_tables[slots[:num_used], rows.positions // rows.page_size]
    cells[:num_used] = pages * rows.page_size + rows.positions % rows.page_size
    limits[:num_used], positions[:num_used] = rows.limits, rows.positions
    buffer.array[:, num_used:] = 0
    cells[num_used:] = np.arange(T - num_used) % rows.page_size
    limits[num_used:] = SEES_NOTHING
    return num_used
