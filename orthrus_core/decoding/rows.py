"""The T token rows of a forward: which token, where its K/V goes, what it may see."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from orthrus_core.models.attention import View

GROUP_OVERHEAD = 2  # what a group costs beside its queries, in queries (measured: SDPA on CPU, 256 cells)


@dataclass(frozen=True)
class Span:
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
class AttentionShapes:
    """The sizes attention may run in. Which of them agree bit for bit is found out at start-up.

    Attributes:
        query_widths: W, queries of a group.
        tile_lengths: cells of a key tile. A forward whose limits fit into one tile takes the shortest that
            holds them; all others split their cells into tiles of the longest, merged in order. So a row's
            sums are taken in an order that depends on its own position alone.
    """

    query_widths: tuple[int, ...] = (2, 4, 8, 16, 32)
    tile_lengths: tuple[int, ...] = (64, 128, 256)

    def width_for(self, counts: np.ndarray) -> int:
        """Return the query width that wastes least on spans of these lengths, the widest on a tie."""
        return min(
            sorted(self.query_widths, reverse=True),
            key=lambda width: int((-(-counts // width)).sum()) * (GROUP_OVERHEAD + width),
        )

    def tile_for(self, last_cell: int) -> int:
        """Return the tile length for a forward whose farthest limit is `last_cell`."""
        return next((tile for tile in self.tile_lengths if last_cell < tile), self.tile_lengths[-1])


@dataclass(frozen=True)
class RowGroups:
    """Token rows arranged for attention: G groups of W queries of one sequence, N key tiles in all.

    Attributes:
        rows: (G, W) int64, the token row behind each query; padding repeats the group's last row.
        places: (T,) int64, where each token row stands in the flattened (G, W).
        limits: (G, W) int64, last cell that each query sees.
        positions: (G, W) int64, position of each query.
        tables: (N, P) int64 page ids of each tile.
        tile_groups: (N,) int64, the group that each tile belongs to.
        tile_starts: (N,) int64, first cell of each tile.
        merge: (G, most tiles of a group) int64 tiles of each group in order, -1 where it has fewer; None when
            every group has one tile, its own.
    """

    rows: Tensor
    places: Tensor
    limits: Tensor
    positions: Tensor
    tables: Tensor
    tile_groups: Tensor
    tile_starts: Tensor
    merge: Tensor | None
    _masks: dict = field(default_factory=dict)

    def mask(self, *, page_size: int, repeats: int, window: int | None, dtype: torch.dtype) -> Tensor:
        """Return the additive mask of what every query sees, made once per forward and window.

        Unseen cells get a large finite number: their weight is exactly 0 beside any seen cell, and a tile of
        which a query sees nothing gives finite values, whose weight in the merge is exactly 0.

        Args:
            page_size: cells per page.
            repeats: query heads per K/V head; they stand beside each other as queries.
            window: cells up to the query's own that a sliding-window layer sees; None: all.
            dtype: dtype of the queries.
        Returns:
            (N, 1, W * repeats, tile length).
        """
        key = (repeats, window, dtype)
        if key not in self._masks:
            tile_length = self.tables.shape[1] * page_size
            cells = self.tile_starts[:, None] + torch.arange(tile_length, device=self.limits.device)
            unseen = cells[:, None] > self.limits[self.tile_groups][..., None]
            if window is not None:
                unseen |= cells[:, None] <= self.positions[self.tile_groups][..., None] - window
            mask = torch.zeros(unseen.shape, dtype=dtype, device=unseen.device)
            mask.masked_fill_(unseen, torch.finfo(dtype).min / 2)
            self._masks[key] = mask.repeat_interleave(repeats, dim=1)[:, None]
        return self._masks[key]


@dataclass(frozen=True)
class TokenRows:
    """One forward's rows.

    Attributes:
        token_ids: (T,) int64.
        positions: (T,) int64.
        cells: (T,) int64, where each row's K/V is written; scratch cells for the rows left over.
        groups: the same rows as attention sees them.
        num_used: rows that carry a token; the rest are padding.
    """

    token_ids: Tensor
    positions: Tensor
    cells: Tensor
    groups: RowGroups
    num_used: int


def first_rows(spans: Sequence[Span]) -> list[int]:
    """Return the token row at which each span starts when they are laid out in order."""
    starts = np.cumsum([0, *(len(span.token_ids) for span in spans)])
    return starts[:-1].tolist()


def lay_out(
    spans: Sequence[Span],
    *,
    view: View,
    token_budget: int,
    page_tables: np.ndarray,
    page_size: int,
    shapes: AttentionShapes,
    device: torch.device,
) -> TokenRows:
    """Arrange spans as exactly T token rows.

    The limit is the one rule on what a row may see: its own cell in the AR view (causal), the last cell of
    its span in the diffusion view (the whole block, both directions).

    Args:
        spans: at most T positions in all.
        view: decides the limits.
        token_budget: T.
        page_tables: (slots, pages per sequence) int64.
        page_size: cells per page.
        shapes: sizes that attention may run in; the cheapest for these spans are taken.
        device: where the tensors go.
    """
    counts = np.array([len(span.token_ids) for span in spans], dtype=np.int64)
    starts = np.array([span.start for span in spans], dtype=np.int64)
    slots = np.array([span.slot for span in spans], dtype=np.int64)
    num_used = int(counts.sum())
    if not 0 < num_used <= token_budget:
        raise ValueError(f"spans hold {num_used} token rows, the token budget is {token_budget}")
    positions = np.repeat(starts, counts) + _count_up(counts)
    limits = positions if view == "ar" else np.repeat(starts + counts - 1, counts)
    cells = page_tables[np.repeat(slots, counts), positions // page_size] * page_size + positions % page_size
    token_ids = np.concatenate([np.asarray(span.token_ids, dtype=np.int64) for span in spans])
    padding = np.zeros(token_budget - num_used, dtype=np.int64)
    groups = _group(
        counts, slots, positions, limits, shapes=shapes, page_tables=page_tables, page_size=page_size
    )
    groups["places"] = np.concatenate([groups["places"], padding])

    def as_tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    tensors: dict[str, Any] = {name: None if a is None else as_tensor(a) for name, a in groups.items()}
    return TokenRows(
        token_ids=as_tensor(np.concatenate([token_ids, padding])),
        positions=as_tensor(np.concatenate([positions, padding])),
        cells=as_tensor(np.concatenate([cells, np.arange(len(padding)) % page_size])),
        groups=RowGroups(**tensors),
        num_used=num_used,
    )


def _group(
    counts: np.ndarray,
    slots: np.ndarray,
    positions: np.ndarray,
    limits: np.ndarray,
    *,
    shapes: AttentionShapes,
    page_tables: np.ndarray,
    page_size: int,
) -> dict[str, np.ndarray | None]:
    """Cut spans into groups of W queries and their cells into tiles; names as in `RowGroups`."""
    width = shapes.width_for(counts)
    groups_per_span = -(-counts // width)
    span_first_row = np.cumsum(counts) - counts
    span_first_group = np.cumsum(groups_per_span) - groups_per_span
    group_span = np.repeat(np.arange(len(counts)), groups_per_span)
    group_first_row = span_first_row[group_span] + _count_up(groups_per_span) * width
    last_row = (span_first_row + counts - 1)[group_span]
    rows = np.minimum(group_first_row[:, None] + np.arange(width), last_row[:, None])
    offsets = _count_up(counts)
    return {
        "rows": rows,
        "places": (np.repeat(span_first_group, counts) + offsets // width) * width + offsets % width,
        "limits": limits[rows],
        "positions": positions[rows],
    } | _tile(
        limits[rows[:, -1]], slots[group_span], shapes=shapes, page_tables=page_tables, page_size=page_size
    )


def _tile(
    last_cells: np.ndarray,
    slots: np.ndarray,
    *,
    shapes: AttentionShapes,
    page_tables: np.ndarray,
    page_size: int,
) -> dict[str, np.ndarray | None]:
    """Split each group's cells, 0 to its `last_cells`, into tiles; names as in `RowGroups`."""
    tile_length = shapes.tile_for(int(last_cells.max()))
    tiles_per_group = last_cells // tile_length + 1
    tile_groups = np.repeat(np.arange(len(last_cells)), tiles_per_group)
    tile_index = _count_up(tiles_per_group)
    pages_per_tile = tile_length // page_size
    columns = tile_index[:, None] * pages_per_tile + np.arange(pages_per_tile)
    # pages past the table's end lie beyond every limit: any page will do
    columns = np.minimum(columns, page_tables.shape[1] - 1)
    merge = None
    if tiles_per_group.max() > 1:
        merge = np.full((len(last_cells), tiles_per_group.max()), -1)
        merge[tile_groups, tile_index] = np.arange(len(tile_groups))
    return {
        "tables": page_tables[slots[tile_groups][:, None], columns],
        "tile_groups": tile_groups,
        "tile_starts": tile_index * tile_length,
        "merge": merge,
    }


def _count_up(counts: np.ndarray) -> np.ndarray:
    """Return 0 .. count-1 for each count, one after the other."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
