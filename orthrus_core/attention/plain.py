"""Attention in plain words: what every kernel is tested against, and what runs where none can be had."""

import torch
from torch import Tensor

from orthrus_core.attention.backend import LayerAttend
from orthrus_core.attention.rows import SpanRows
from orthrus_core.attention.spec import AttentionSpec
from orthrus_core.attention.view import AttentionLayer
from orthrus_core.cache import KVCache


def attend_row(q: Tensor, keys: Tensor, values: Tensor, layer: AttentionLayer) -> Tensor:
    """Attend with one row to the cells that it sees, in float32 at least.

    Args:
        q: (H, Dh).
        keys: (cells, Hkv, Dh), at least one cell, as are values.
        layer: whose scaling and softcap count.
    Returns:
        (H, Dh).
    """
    q, keys, values = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (q, keys, values))
    grouped = q.view(keys.shape[1], -1, q.shape[1])
    scores = torch.einsum("hrd,chd->hrc", grouped, keys) * layer.scaling
    if layer.softcap is not None:
        scores = torch.tanh(scores / layer.softcap) * layer.softcap
    return torch.einsum("hrc,chd->hrd", scores.softmax(-1), values).reshape(q.shape)


def first_seen(position: int, window: int | None) -> int:
    """Return the first cell that a row sees, in a layer of this sliding window."""
    return 0 if window is None else max(0, position - window + 1)


class PlainAttention:
    """One token row at a time, so that its bits depend on nothing else; see `AttentionBackend`.

    Pages are (num_pages, page_size, Hkv, Dh), for keys and for values.
    """

    name = "plain"
    has_static_shapes = False

    def __init__(self, spec: AttentionSpec):
        self._spec = spec

    def new_cache(self, *, num_layers: int, num_pages: int) -> KVCache:
        """Allocate the pages of all layers."""
        return self._spec.new_cache(num_layers=num_layers, num_pages=num_pages)

    def arrange(self, spans: SpanRows, num_rows: int) -> None:
        """Nothing to arrange."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layer: AttentionLayer, at: LayerAttend) -> Tensor:
        """See `AttentionBackend.attend`."""
        keys, values, cells, page_size = at.keys, at.values, at.packed[1], at.keys.shape[1]
        keys.flatten(0, 1)[cells], values.flatten(0, 1)[cells] = k, v
        out = torch.zeros_like(q)
        slots, limits, positions = at.packed[2:].tolist()
        for row, (slot, limit, position) in enumerate(zip(slots, limits, positions, strict=True)):
            seen = torch.arange(first_seen(position, layer.sliding_window), limit + 1, device=q.device)
            if len(seen):
                own = at.page_tables[slot][seen // page_size], seen % page_size
                out[row] = attend_row(q[row], keys[own], values[own], layer).to(q.dtype)
        return out
