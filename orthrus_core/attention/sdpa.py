"""Attention over the paged cache through PyTorch's fused kernels, in shapes that keep every row's bits."""

import torch
from torch import Tensor

from orthrus_core.cache import KVCache
from orthrus_core.decoding.rows import RowGroups

FUSED_DEVICES = ("cpu",)


def attend_sdpa(
    q: Tensor, cache: KVCache, groups: RowGroups, *, layer_idx: int, scaling: float, window: int | None
) -> Tensor:
    """Attend with T token rows to the cells of their own sequences.

    Query heads that share a K/V head stand beside each other as queries, so that K and V are read once.

    Args:
        q: (T, H, Dh).
        cache: holds this forward's K/V already.
        groups: arrangement of the T rows.
        layer_idx: which layer's cells.
        scaling: factor on the scores.
        window: sliding window in cells, or None.
    Returns:
        (T, H, Dh).
    """
    H, Dh = q.shape[1:]
    k, v = cache.gather(layer_idx, groups.tables)  # (N, C, Hkv, Dh)
    G, W = groups.rows.shape
    N, _, Hkv, _ = k.shape
    repeats = H // Hkv
    q = q[groups.rows].view(G, W, Hkv, repeats, Dh).transpose(1, 2).reshape(G, Hkv, W * repeats, Dh)
    if groups.merge is not None:
        q = q[groups.tile_groups]
    mask = groups.mask(page_size=cache.page_size, repeats=repeats, window=window, dtype=q.dtype)
    out, logsumexp = attend_tile(q, k.transpose(1, 2), v.transpose(1, 2), mask, scaling)
    if groups.merge is not None:
        out = merge_tiles(out, logsumexp, groups.merge)
    out = out.view(G, Hkv, W, repeats, Dh).transpose(1, 2).reshape(G * W, H, Dh)
    return out[groups.places]


def attend_tile(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
    """Attend within each tile.

    Args:
        q: (N, Hkv, Q, Dh).
        k: (N, Hkv, C, Dh).
        v: (N, Hkv, C, Dh).
        mask: (N, 1, Q, C), added to the scores.
        scaling: factor on the scores.
    Returns:
        output (N, Hkv, Q, Dh) and the scores' log-sum-exp (N, Hkv, Q) in float32.
    """
    if q.device.type in FUSED_DEVICES:
        mask = mask.expand(-1, q.shape[1], -1, -1)
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, attn_mask=mask, scale=scaling
        )
    scores = (q @ k.transpose(-1, -2)).float() * scaling + mask
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
