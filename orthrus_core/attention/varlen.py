"""Write-then-attend over the paged cache by PyTorch's variable-length attention with block tables.

One split per sequence keeps a row's bits free of its batch, at the price of an idle card when few long
sequences run. The kernel behind it decides which page sizes it takes: FlashAttention 2, which PyTorch brings
along, wants multiples of 256 cells; FlashAttention 3, where installed and activated, takes any. So whether it
can be used is found out by a trial call.
"""

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from orthrus_core.attention.plans import PlanBuffers
from orthrus_core.attention.rows import LINES, SpanRows
from orthrus_core.attention.spec import AttentionSpec
from orthrus_core.cache import KVCache

NEEDED_OPTIONS = frozenset({"seqused_k", "block_table", "num_splits", "enable_gqa", "scale", "window_size"})


def find_varlen_attn() -> Callable[..., Tensor] | None:
    """Return PyTorch's `varlen_attn` where it takes block tables and a split count, else None."""
    try:
        function = importlib.import_module("torch.nn.attention.varlen").varlen_attn
    except (ImportError, AttributeError):
        return None
    return function if inspect.signature(function).parameters.keys() >= NEEDED_OPTIONS else None


@dataclass(frozen=True)
class VarlenPlan:
    """One forward's spans, each a sequence of its own, padded to T sequences.

    Attributes:
        span_starts: (T + 1,) int32, row at which each sequence starts, and the end.
        num_cells: (T,) int32, cells that the last row of each sequence sees.
        slots: (T,) int32, each sequence's line in the page tables.
        causal: whether a row sees only cells up to its own.
    """

    span_starts: Tensor
    num_cells: Tensor
    slots: Tensor
    causal: bool


class VarlenBackend:
    """Attention of an engine's forwards; K/V pages are (pages, page_size, Hkv, Dh).

    Attributes:
        name: for manifests.
        has_static_shapes: see `AttentionBackend`.
    """

    name = "varlen"
    has_static_shapes = True

    def __init__(self, spec: AttentionSpec, varlen_attn: Callable[..., Tensor]):
        """Args: varlen_attn is what `find_varlen_attn` returned."""
        self._varlen_attn = varlen_attn
        self._spec = spec
        self._buffers = PlanBuffers(spec.device)

    def new_cache(self, *, num_layers: int, num_pages: int, page_size: int, device: torch.device) -> KVCache:
        """Allocate (num_pages, page_size, Hkv, Dh) for keys and for values."""
        return self._spec.new_cache(
            num_layers=num_layers, num_pages=num_pages, page_size=page_size, device=device
        )

    def arrange(self, spans: SpanRows, num_rows: int, device: torch.device) -> VarlenPlan:
        """Plan one forward of T rows; its tensors are the same ones for every forward of T rows of a view."""
        T = num_rows
        plan = self._buffers.put(plan_spans(spans, T), spans, T, size=3 * T + 1)
        span_starts, num_cells, slots = plan.split([T + 1, T, T])
        return VarlenPlan(span_starts, num_cells, slots, spans.causal)

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        keys: Tensor,
        values: Tensor,
        packed: Tensor,
        page_tables: Tensor,
        arrangement: VarlenPlan,
        scaling: float,
        window: int | None,
        softcap: float | None = None,
    ) -> Tensor:
        """Same contract as `TritonBackend.attend`, but for rows left over, which get anything finite."""
        assert softcap is None, "cuda_backend refuses models with a softcap"
        cells = packed[LINES.index("cells")]
        keys.flatten(0, 1).index_copy_(0, cells, k)
        values.flatten(0, 1).index_copy_(0, cells, v)
        # the same in every layer: torch.compile computes it once
        block_table = page_tables.to(torch.int32).index_select(0, arrangement.slots)
        return self._varlen_attn(
            q.contiguous(),
            keys,
            values,
            arrangement.span_starts,
            None,
            len(q),
            self._spec.max_context,
            scale=scaling,
            window_size=window_size(window, causal=arrangement.causal),
            enable_gqa=q.shape[1] != k.shape[1],
            seqused_k=arrangement.num_cells,
            block_table=block_table,
            num_splits=1,
        )


def plan_spans(spans: SpanRows, num_rows: int) -> np.ndarray:
    """Return (3 T + 1,) int32: the lists of a `VarlenPlan`, one after the other.

    Every row left over is a sequence that sees one cell, so that its output is finite.
    """
    T = num_rows
    left_over = T - len(spans.limits)
    ends = np.cumsum(np.concatenate([spans.counts, np.ones(left_over, dtype=np.int64)]))
    plan = np.zeros(3 * T + 1, dtype=np.int32)
    starts, num_cells, slots = np.split(plan, [T + 1, 2 * T + 1])
    starts[1:] = T
    starts[1 : len(ends) + 1] = ends
    num_cells[: len(ends)] = 1
    num_cells[: len(spans.counts)] = spans.limits[ends[: len(spans.counts)] - 1] + 1
    slots[: len(spans.counts)] = spans.span_slots
    return plan


def window_size(window: int | None, *, causal: bool) -> tuple[int, int]:
    """Return how many cells before and after its own a row sees, -1 for all."""
    return (-1 if window is None else window - 1), (0 if causal else -1)
