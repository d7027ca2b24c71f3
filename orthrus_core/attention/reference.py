"""Attention over the paged cache, slow and plain: what the fast backends are tested against."""

from typing import Any

import torch
from torch import Tensor

from orthrus_core.attention.rows import SpanRows
from orthrus_core.cache import KVCache


class ReferenceAttention:
    """One token row and one head at a time, in FP32; see `AttentionBackend`."""

    name = "reference"
    has_static_shapes = False

    def __init__(self, *, num_kv_heads: int, head_dim: int, dtype: torch.dtype):
        self._page = (num_kv_heads, head_dim)
        self._dtype = dtype

    def new_cache(self, *, num_layers: int, num_pages: int, page_size: int, device: torch.device) -> KVCache:
        """Allocate (num_pages, page_size, Hkv, Dh) for keys and for values."""
        shape = (num_pages, page_size, *self._page)
        return KVCache(
            num_layers=num_layers, key_shape=shape, value_shape=shape, page_size=page_size,
            dtype=self._dtype, device=device,
        )  # fmt: skip

    def arrange(self, spans: SpanRows, num_rows: int, device: torch.device) -> None:
        """Nothing to arrange."""

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
        arrangement: Any,
        scaling: float,
        window: int | None,
        softcap: float | None = None,
    ) -> Tensor:
        """See `AttentionBackend.attend`."""
        _, cells, slots, limits, positions = packed.tolist()
        page_size, repeats = keys.shape[1], q.shape[1] // k.shape[1]
        for row, cell in enumerate(cells):
            keys[cell // page_size, cell % page_size] = k[row]
            values[cell // page_size, cell % page_size] = v[row]
        out = torch.zeros_like(q)
        for row, limit in enumerate(limits):
            first = 0 if window is None else max(0, positions[row] - window + 1)
            seen = torch.arange(first, limit + 1)
            pages = page_tables[slots[row]][seen // page_size]
            for head in range(q.shape[1] if len(seen) else 0):
                key = keys[pages, seen % page_size, head // repeats].float()
                value = values[pages, seen % page_size, head // repeats].float()
                scores = key @ q[row, head].float() * scaling
                if softcap is not None:
                    scores = torch.tanh(scores / softcap) * softcap
                weights = torch.softmax(scores, dim=0)
                out[row, head] = (weights @ value).to(q.dtype)
        return out
