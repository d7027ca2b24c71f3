"""Write-then-attend over the paged cache by PyTorch's variable-length attention with block tables.

One split per sequence keeps a row's bits free of its batch, at the price of an idle card when few long
sequences run. The kernel behind it decides which page sizes it takes: FlashAttention 2, which PyTorch brings
along, wants multiples of 256 cells; FlashAttention 3, where installed and activated, takes any. So whether it
can be used is found out by a trial call.
"""

import importlib
import inspect
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from orthrus_core.attention.paged_rows import PagedRows

NEEDED_OPTIONS = frozenset({"seqused_k", "block_table", "num_splits", "enable_gqa", "scale", "window_size"})


def find_varlen_attn() -> Callable[..., Tensor] | None:
    """Return PyTorch's `varlen_attn` where it takes block tables and a split count, else None."""
    try:
        function = importlib.import_module("torch.nn.attention.varlen").varlen_attn
    except (ImportError, AttributeError):
        return None
    return function if inspect.signature(function).parameters.keys() >= NEEDED_OPTIONS else None


class VarlenBackend:
    """Attention of an engine's forwards. Holds no tensors; K/V pages are (pages, page_size, Hkv, Dh).

    Attributes:
        name: for manifests.
    """

    name = "varlen"

    def __init__(self, varlen_attn: Callable[..., Tensor], *, max_context: int):
        """Args: varlen_attn is what `find_varlen_attn` returned."""
        self._varlen_attn = varlen_attn
        self._max_context = max_context

    def plan_size(self, token_budget: int) -> int:
        """Length of the array that `plan` returns for T rows."""
        return 3 * token_budget + 1

    def plan(self, counts: np.ndarray, limits: np.ndarray, slots: np.ndarray) -> np.ndarray:
        """List the spans of one forward, host side.

        Every row left over is a span of its own, so that its output is finite; unused spans are empty.

        Args:
            counts: (spans,) int64, rows of each span; spans are consecutive rows of one sequence.
            limits: (T,) int64, last cell that each row sees; 0 for rows left over.
            slots: (T,) int64, each row's line of the page tables.
        Returns:
            (3 T + 1,) int32: row at which each span starts and the end (T + 1,); cells that the last row of
            each span sees (T,); slot of each span (T,).
        """
        T = len(limits)
        left_over = T - int(counts.sum())
        if left_over < 0:
            raise ValueError(f"spans hold {T - left_over} token rows, the token budget is {T}")
        counts = np.concatenate([counts, np.ones(left_over, dtype=np.int64)])
        ends = np.cumsum(counts)
        plan = np.zeros(3 * T + 1, dtype=np.int32)
        plan[1 : T + 1] = T
        plan[1 : len(ends) + 1] = ends
        plan[T + 1 : T + 1 + len(ends)] = limits[ends - 1] + 1
        plan[2 * T + 1 : 2 * T + 1 + len(ends)] = slots[ends - 1]
        return plan

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        keys: Tensor,
        values: Tensor,
        rows: PagedRows,
        scaling: float,
        window: int | None,
    ) -> Tensor:
        """Same contract as `TritonBackend.attend`."""
        T = len(q)
        keys.flatten(0, 1).index_copy_(0, rows.cells, k)
        values.flatten(0, 1).index_copy_(0, rows.cells, v)
        span_starts, num_cells, slots = rows.plan.split([T + 1, T, T])
        # the same in every layer: torch.compile computes it once
        block_table = rows.page_tables.to(torch.int32).index_select(0, slots)
        return self._varlen_attn(
            q.contiguous(),
            keys,
            values,
            span_starts,
            None,
            T,
            self._max_context,
            scale=scaling,
            window_size=window_size(window, causal=rows.causal),
            enable_gqa=q.shape[1] != k.shape[1],
            seqused_k=num_cells,
            block_table=block_table,
            num_splits=1,
        )


def window_size(window: int | None, *, causal: bool) -> tuple[int, int]:
    """Return how many cells before and after its own a row sees, -1 for all."""
    return (-1 if window is None else window - 1), (0 if causal else -1)
