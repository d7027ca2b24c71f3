"""Attention through PyTorch's own kernels, for any device, in shapes that keep every row's bits."""

from typing import Any

import torch
from torch import Tensor

from orthrus_core.attention.rows import SEES_NOTHING, SpanRows
from orthrus_core.attention.tiles import AttentionShapes, RowGroups, group_rows
from orthrus_core.cache import KVCache

FUSED_DEVICES = ("cpu",)


class TiledAttention:
    """Copies pages together and attends tile by tile; see `AttentionBackend`.

    Attributes:
        shapes: sizes that attention may run in; the self-check removes those that do not agree.
    """

    name = "tiled"
    has_static_shapes = False

    def __init__(self, *, num_kv_heads: int, head_dim: int, dtype: torch.dtype):
        self.shapes = AttentionShapes()
        self._page = (num_kv_heads, head_dim)
        self._dtype = dtype

    def new_cache(self, *, num_layers: int, num_pages: int, page_size: int, device: torch.device) -> KVCache:
        """Allocate (num_pages, page_size, Hkv, Dh) for keys and for values."""
        shape = (num_pages, page_size, *self._page)
        return KVCache(
            num_layers=num_layers,
            key_shape=shape,
            value_shape=shape,
            page_size=page_size,
            dtype=self._dtype,
            device=device,
        )

    def arrange(self, spans: SpanRows, num_rows: int, device: torch.device) -> RowGroups:
        """Arrange the rows in groups of queries and tiles of cells."""
        return group_rows(spans, num_rows, self.shapes, device)

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
        cells = packed[1]
        keys.flatten(0, 1).index_copy_(0, cells, k)
        values.flatten(0, 1).index_copy_(0, cells, v)
        out = attend_groups(q, keys, values, arrangement, scaling=scaling, window=window, softcap=softcap)
        # rows left over got those of row 0: a NaN there must not reach the scratch page, which tiles read
        return out.masked_fill((packed[3] == SEES_NOTHING)[:, None, None], 0)


def attend_groups(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    groups: RowGroups,
    *,
    scaling: float,
    window: int | None,
    softcap: float | None = None,
) -> Tensor:
    """Attend with T token rows to the cells of their own sequences.

    Query heads that share a K/V head stand beside each other as queries, so that K and V are read once.

    Args:
        q: (T, H, Dh).
        keys: (num_pages, page_size, Hkv, Dh), this forward's included; so are `values`.
        groups: arrangement of the T rows.
        scaling: factor on the scores.
        window: sliding window in cells, or None.
        softcap: see `AttentionLayer`.
    Returns:
        (T, H, Dh).
    """
    H, Dh = q.shape[1:]
    page_size, Hkv = keys.shape[1:3]
    G, W = groups.rows.shape
    repeats = H // Hkv
    q = q[groups.rows].view(G, W, Hkv, repeats, Dh).transpose(1, 2).reshape(G, Hkv, W * repeats, Dh)
    if groups.merge is not None:
        q = q[groups.tile_groups]
    mask = groups.mask(page_size=page_size, repeats=repeats, window=window, dtype=q.dtype)
    k, v = (gather_pages(pages, groups.tables).transpose(1, 2) for pages in (keys, values))
    out, logsumexp = attend_tile(q, k, v, mask, scaling, softcap)
    if groups.merge is not None:
        out = merge_tiles(out, logsumexp, groups.merge)
    out = out.view(G, Hkv, W, repeats, Dh).transpose(1, 2).reshape(G * W, H, Dh)
    return out[groups.places]


def gather_pages(pages: Tensor, tables: Tensor) -> Tensor:
    """Read whole pages in table order.

    Args:
        pages: (num_pages, page_size, Hkv, Dh).
        tables: (N, P) int64 page ids.
    Returns:
        (N, P * page_size, Hkv, Dh).
    """
    return pages.index_select(0, tables.flatten()).view(tables.shape[0], -1, *pages.shape[2:])


def attend_tile(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scaling: float, softcap: float | None = None
) -> tuple[Tensor, Tensor]:
    """Attend within each tile.

    Args:
        q: (N, Hkv, Q, Dh).
        k: (N, Hkv, C, Dh).
        v: (N, Hkv, C, Dh).
        mask: (N, 1, Q, C), added to the scores.
        scaling: factor on the scores.
        softcap: see `AttentionLayer`.
    Returns:
        output (N, Hkv, Q, Dh) and the scores' log-sum-exp (N, Hkv, Q) in float32.
    """
    if q.device.type in FUSED_DEVICES and softcap is None:
        mask = mask.expand(-1, q.shape[1], -1, -1)
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, attn_mask=mask, scale=scaling
        )
    scores = (q @ k.transpose(-1, -2)).float() * scaling
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores + mask
    logsumexp = scores.logsumexp(dim=-1)
    return (scores - logsumexp[..., None]).exp().to(v.dtype) @ v, logsumexp


def merge_tiles(out: Tensor, logsumexp: Tensor, merge: Tensor) -> Tensor:
    """Combine the tiles of each group, always in order of position.

    A tile of which a query sees nothing has weight exactly 0, so that the result does not depend on how many
    such tiles the group has.

    Args:
        out: (N, Hkv, Q, Dh).
        logsumexp: (N, Hkv, Q) float32.
        merge: (G, tiles) int64 into N, -1 where a group has no further tile.
    Returns:
        (G, Hkv, Q, Dh) in the dtype of `out`.
    """
    absent = (merge < 0)[..., None, None]
    index = merge.clamp(min=0)
    logsumexp = logsumexp[index].masked_fill(absent, float("-inf"))  # (G, tiles, Hkv, Q)
    weights = (logsumexp - logsumexp.amax(dim=1, keepdim=True)).exp()
    parts = out[index].float()
    total, norm = parts[:, 0] * weights[:, 0, ..., None], weights[:, 0]
    for tile in range(1, merge.shape[1]):
        total = total + parts[:, tile] * weights[:, tile, ..., None]
        norm = norm + weights[:, tile]
    return (total / norm[..., None]).to(out.dtype)
