"""Token rows cut into tiles and their cells into splits: the work list of the paged attention kernel."""

from dataclasses import dataclass

import numpy as np

from orthrus_core.attention.rows import SpanRows, count_up
from orthrus_core.errors import ConfigError

WHOLE = -1  # instead of a split: all of them, one after the other
PARTS_OF_A_SHARE = 8  # a tile shorter than this part of a program's share of the cells is walked whole


@dataclass(frozen=True)
class Tiling:
    """Sizes of the kernel's work, the same for every forward of an engine, so that every row keeps its bits.

    Attributes:
        rows_per_tile: most token rows of a tile; they belong to one sequence.
        split_length: cells of a split. A constant, so that the order in which a row's sums are taken depends
            on its own position alone.
        max_context: most cells of a sequence.
        max_partials: most partial results, of one row and one split each, that memory is kept for.
        programs_per_head: programs of a launch over K/V heads.
    """

    rows_per_tile: int
    split_length: int
    max_context: int
    max_partials: int
    programs_per_head: float = 1.0

    def __post_init__(self) -> None:
        for name in ("rows_per_tile", "split_length", "max_context"):
            if getattr(self, name) < 1:
                raise ConfigError(f"attention tiling: {name} must be >= 1, got {getattr(self, name)}")

    @property
    def max_splits(self) -> int:
        """Splits of the longest sequence."""
        return -(-self.max_context // self.split_length)

    def num_partials(self, num_rows: int) -> int:
        """Partial results that a forward of T rows needs memory for."""
        return min(num_rows * self.max_splits, self.max_partials)

    def plan_size(self, num_rows: int) -> int:
        """Length of the longest plan of T rows."""
        return 2 + 5 * num_rows + 2 * (num_rows + self.num_partials(num_rows))

    def plan(self, spans: SpanRows, num_rows: int) -> np.ndarray:
        """List the work of one forward.

        A tile is either walked whole, split after split, or spread: then each of its splits is an item of its
        own, and its rows are merged afterwards. Which, changes no bits. Tiles of one span are neighbours:
        what one reads of the pages the others find in the processors' common cache.

        Args:
            spans: the rows in use.
            num_rows: T.
        Returns:
            (2 + 5 T + 2 I,) int32: number of items I and of merges; (T,) first row, (T,) rows and (T,) first
            partial of each tile, zeros past the last; (T, 2) row and tile of each merge; (I, 2) tile and
            split, or WHOLE, of each item.
        """
        span_of, first_rows, row_counts = self._tiles(spans.counts)
        last_cells = np.maximum.reduceat(spans.limits, first_rows)
        splits = last_cells // self.split_length + 1
        if splits.max() > self.max_splits:
            raise ValueError(f"a row sees cell {last_cells.max()}, max_context is {self.max_context}")
        partials = splits * row_counts
        spread = self._spread(splits, partials)
        items = self._items(span_of, splits, spread)
        merged = np.repeat(np.flatnonzero(spread), row_counts[spread])
        plan = np.zeros(2 + 5 * num_rows + items.size, dtype=np.int32)
        plan[:2] = len(items), len(merged)
        tiles = plan[2 : 2 + 3 * num_rows].reshape(3, num_rows)[:, : len(splits)]
        tiles[:] = first_rows, row_counts, np.cumsum(partials * spread) - partials * spread
        merges = plan[2 + 3 * num_rows : 2 + 5 * num_rows].reshape(num_rows, 2)[: len(merged)]
        merges[:, 0] = first_rows[merged] + count_up(row_counts[spread])
        merges[:, 1] = merged
        plan[2 + 5 * num_rows :] = items.ravel()
        return plan

    def _tiles(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the span, the first row and the row count of each tile."""
        tiles_per_span = -(-counts // self.rows_per_tile)
        offsets = count_up(tiles_per_span) * self.rows_per_tile
        first_rows = np.repeat(np.cumsum(counts) - counts, tiles_per_span) + offsets
        row_counts = np.minimum(np.repeat(counts, tiles_per_span) - offsets, self.rows_per_tile)
        return np.repeat(np.arange(len(counts)), tiles_per_span), first_rows, row_counts

    def _spread(self, splits: np.ndarray, partials: np.ndarray) -> np.ndarray:
        """Say which tiles are spread: those that would keep one program busy while others are done.

        The longest go first, as far as the memory for partial results reaches.
        """
        share = splits.sum() / self.programs_per_head
        spread = (splits > 1) & (splits * PARTS_OF_A_SHARE > share)
        longest_first = np.argsort(-splits, kind="stable")
        needed = np.cumsum((partials * spread)[longest_first])
        spread[longest_first[needed > self.max_partials]] = False
        return spread

    @staticmethod
    def _items(span_of: np.ndarray, splits: np.ndarray, spread: np.ndarray) -> np.ndarray:
        """Return (I, 2) tile and split: whole tiles first, then those of a span by split."""
        whole, tiles = np.flatnonzero(~spread), np.flatnonzero(spread)
        tile, split = np.repeat(tiles, splits[tiles]), count_up(splits[tiles])
        order = np.lexsort((split, span_of[tile]))
        items = np.full((len(whole) + len(tile), 2), WHOLE)
        items[: len(whole), 0] = whole
        items[len(whole) :] = np.stack((tile, split), axis=1)[order]
        return items
