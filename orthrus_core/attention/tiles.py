"""Token rows arranged for PyTorch's own attention: groups of queries, tiles of cells."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from orthrus_core.attention.rows import SpanRows, count_up

GROUP_OVERHEAD = 2  # what a group costs beside its queries, in queries (measured: SDPA on CPU, 256 cells)


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
        places: (T,) int64, where each token row stands in the flattened (G, W); 0 for rows left over.
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


def group_rows(spans: SpanRows, num_rows: int, shapes: AttentionShapes, device: torch.device) -> RowGroups:
    """Arrange the rows in use; arguments as in `AttentionBackend.arrange`."""
    arrays = _group(spans, shapes)
    places = np.zeros(num_rows, dtype=np.int64)
    places[: len(arrays["places"])] = arrays["places"]
    arrays["places"] = places
    tensors: dict[str, Any] = {
        name: None if array is None else torch.from_numpy(np.ascontiguousarray(array)).to(device)
        for name, array in arrays.items()
    }
    return RowGroups(**tensors)


def _group(spans: SpanRows, shapes: AttentionShapes) -> dict[str, Any]:
    """Cut spans into groups of W queries and their cells into tiles; names as in `RowGroups`."""
    counts, positions, limits = spans.counts, spans.positions, spans.limits
    width = shapes.width_for(counts)
    groups_per_span = -(-counts // width)
    span_first_row = np.cumsum(counts) - counts
    span_first_group = np.cumsum(groups_per_span) - groups_per_span
    group_span = np.repeat(np.arange(len(counts)), groups_per_span)
    group_first_row = span_first_row[group_span] + count_up(groups_per_span) * width
    last_row = (span_first_row + counts - 1)[group_span]
    rows = np.minimum(group_first_row[:, None] + np.arange(width), last_row[:, None])
    offsets = count_up(counts)
    return {
        "rows": rows,
        "places": (np.repeat(span_first_group, counts) + offsets // width) * width + offsets % width,
        "limits": limits[rows],
        "positions": positions[rows],
    } | _tile(spans, limits[rows[:, -1]], spans.span_slots[group_span], shapes)


def _tile(
    spans: SpanRows, last_cells: np.ndarray, slots: np.ndarray, shapes: AttentionShapes
) -> dict[str, Any]:
    """Split each group's cells, 0 to its `last_cells`, into tiles; names as in `RowGroups`."""
    tile_length = shapes.tile_for(int(last_cells.max()))
    tiles_per_group = last_cells // tile_length + 1
    tile_groups = np.repeat(np.arange(len(last_cells)), tiles_per_group)
    tile_index = count_up(tiles_per_group)
    pages_per_tile = tile_length // spans.page_size
    columns = tile_index[:, None] * pages_per_tile + np.arange(pages_per_tile)
    # pages past the table's end lie beyond every limit: any page will do
    columns = np.minimum(columns, spans.page_tables.shape[1] - 1)
    merge = None
    if tiles_per_group.max() > 1:
        merge = np.full((len(last_cells), tiles_per_group.max()), -1)
        merge[tile_groups, tile_index] = np.arange(len(tile_groups))
    return {
        "tables": spans.page_tables[slots[tile_groups][:, None], columns],
        "tile_groups": tile_groups,
        "tile_starts": tile_index * tile_length,
        "merge": merge,
    }
