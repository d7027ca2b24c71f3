"""What attention over the paged cache needs to know: once of the model, each time of the T token rows."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AttentionSpec:
    """What is fixed for an engine's life.

    Attributes:
        num_heads: H, query heads.
        num_kv_heads: Hkv, key/value heads.
        head_dim: Dh.
        page_size: cells per page.
        max_context: most cells of a sequence.
        dtype: of queries, keys and values.
        device: where they are.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    page_size: int
    max_context: int
    dtype: torch.dtype
    device: torch.device

    @property
    def repeats(self) -> int:
        """Query heads per K/V head."""
        return self.num_heads // self.num_kv_heads


@dataclass(frozen=True)
class PagedRows:
    """One forward's rows: tensors of static shape on the device.

    Rows of one span (one sequence, consecutive positions) are neighbours.

    Attributes:
        cells: (T,) int64, where each row's K/V is written: page * page_size + offset; rows left over write
            to the scratch page.
        slots: (T,) int32 or int64, each row's line of `page_tables`.
        limits: (T,) int32 or int64, last cell of its sequence that each row sees; 0 for rows left over.
        positions: (T,) int32 or int64; 0 for rows left over.
        page_tables: (sequences, pages per sequence) int32 or int64 page ids.
        plan: what the backend's `plan` returned, (plan_size,) int32.
        causal: whether every limit is the row's own position (AR view) or the end of its span.
    """

    cells: Tensor
    slots: Tensor
    limits: Tensor
    positions: Tensor
    page_tables: Tensor
    plan: Tensor
    causal: bool
