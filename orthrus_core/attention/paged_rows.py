"""What attention over the paged cache needs to know of a forward's T token rows, as tensors of static shape."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class PagedRows:
    """One forward's rows on the device. Rows of one span (one sequence, consecutive positions) are neighbours.

    Attributes:
        cells: (T,) int64, where each row's K/V is written: page * page_size + offset; rows left over write
            to the scratch page.
        slots: (T,) int32 or int64, each row's line of `page_tables`.
        limits: (T,) int32 or int64, last cell of its sequence that each row sees; 0 for rows left over.
        positions: (T,) int32 or int64; 0 for rows left over.
        page_tables: (sequences, pages per sequence) int32 or int64 page ids.
        plan: what the backend's `plan` returned, (plan_size,) int32.
    """

    cells: Tensor
    slots: Tensor
    limits: Tensor
    positions: Tensor
    page_tables: Tensor
    plan: Tensor
