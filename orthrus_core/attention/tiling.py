"""Token rows cut into tiles and their cells into splits: the work list of the paged attention kernel."""

from dataclasses import dataclass

import numpy as np

from orthrus_core.attention.rows import count_up
from orthrus_core.errors import ConfigError


@dataclass(frozen=True)
class Tiling:
    """Sizes of the kernel's work, the same for every forward of an engine, so that every row keeps its bits.

    Attributes:
        rows_per_tile: most token rows of a tile; they belong to one sequence.
        split_length: cells of a split. A constant, so that the order in which a row's sums are taken depends
            on its own position alone.
        max_context: most cells of a sequence.
    """

    rows_per_tile: int
    split_length: int
    max_context: int

    def __post_init__(self) -> None:
        for name in ("rows_per_tile", "split_length", "max_context"):
            if getattr(self, name) < 1:
                raise ConfigError(f"attention tiling: {name} must be >= 1, got {getattr(self, name)}")

    @property
    def max_splits(self) -> int:
        """Splits of the longest sequence."""
        return -(-self.max_context // self.split_length)

    def plan_size(self, num_rows: int) -> int:
        """Length of the longest plan of T rows."""
        return 1 + 2 * num_rows * (1 + self.max_splits)

    def plan(self, counts: np.ndarray, limits: np.ndarray, num_rows: int) -> np.ndarray:
        """List the (tile, split) pairs of one forward.

        Args:
            counts: (S,) int64, rows of each span; spans are consecutive rows of one sequence.
            limits: (rows in use,) int64, last cell that each row sees.
            num_rows: T.
        Returns:
            (1 + 2 T + 2 I,) int32: number of items I; (T,) first row and (T,) rows of each tile, zeros past
            the last; (I, 2) tile and split of each item.
        """
        first_rows, row_counts = self._tiles(counts)
        last_cells = np.maximum.reduceat(limits, first_rows)
        splits = last_cells // self.split_length + 1
        if splits.max() > self.max_splits:
            raise ValueError(f"a row sees cell {last_cells.max()}, max_context is {self.max_context}")
        num_tiles, num_items = len(splits), int(splits.sum())
        plan = np.zeros(1 + 2 * num_rows + 2 * num_items, dtype=np.int32)
        plan[0] = num_items
        plan[1 : 1 + num_tiles] = first_rows
        plan[1 + num_rows : 1 + num_rows + num_tiles] = row_counts
        items = plan[1 + 2 * num_rows :].reshape(num_items, 2)
        items[:, 0] = np.repeat(np.arange(num_tiles), splits)
        items[:, 1] = count_up(splits)
        return plan

    def _tiles(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the first row and the row count of each tile."""
        tiles_per_span = -(-counts // self.rows_per_tile)
        offsets = count_up(tiles_per_span) * self.rows_per_tile
        first_rows = np.repeat(np.cumsum(counts) - counts, tiles_per_span) + offsets
        return first_rows, np.minimum(np.repeat(counts, tiles_per_span) - offsets, self.rows_per_tile)
