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
        """Length of `plan`'s array: the item count, two lists of at most T tiles, two of their splits."""
        return 1 + 2 * num_rows * (1 + self.max_splits)

    def plan(self, counts: np.ndarray, limits: np.ndarray, num_rows: int) -> np.ndarray:
        """List the (tile, split) pairs of one forward.

        Args:
            counts: (S,) int64, rows of each span; spans are consecutive rows of one sequence.
            limits: (rows in use,) int64, last cell that each row sees.
            num_rows: T.
        Returns:
            (plan_size,) int32: number of items; first row of each tile (T,); rows of each tile (T,); tile of
            each item (T * max_splits,); split of each item (T * max_splits,). Zeros where lists end early.
        """
        first_rows, row_counts = self._tiles(counts)
        last_cells = np.maximum.reduceat(limits, first_rows)
        splits = last_cells // self.split_length + 1
        if splits.max() > self.max_splits:
            raise ValueError(f"a row sees cell {last_cells.max()}, max_context is {self.max_context}")
        items = np.repeat(np.arange(len(splits)), splits)
        plan = np.zeros(self.plan_size(num_rows), dtype=np.int32)
        plan[0] = len(items)
        lists = (first_rows, row_counts, items, count_up(splits))
        for start, values in zip(self.offsets(num_rows), lists, strict=True):
            plan[start : start + len(values)] = values
        return plan

    def offsets(self, num_rows: int) -> tuple[int, int, int, int]:
        """Where the four lists of a plan start."""
        T = num_rows
        return 1, 1 + T, 1 + 2 * T, 1 + 2 * T + T * self.max_splits

    def _tiles(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the first row and the row count of each tile."""
        tiles_per_span = -(-counts // self.rows_per_tile)
        offsets = count_up(tiles_per_span) * self.rows_per_tile
        first_rows = np.repeat(np.cumsum(counts) - counts, tiles_per_span) + offsets
        return first_rows, np.minimum(np.repeat(counts, tiles_per_span) - offsets, self.rows_per_tile)
