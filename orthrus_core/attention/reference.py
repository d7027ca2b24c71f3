"""Attention over the paged cache, slow and plain: what the fast implementations are tested against."""

import torch
from torch import Tensor

from orthrus_core.cache import KVCache
from orthrus_core.decoding.rows import RowGroups


def attend_reference(
    q: Tensor, cache: KVCache, groups: RowGroups, *, layer_idx: int, scaling: float, window: int | None
) -> Tensor:
    """Same contract as `attend_sdpa`: one token row and one head at a time, in FP32."""
    T, H, Dh = q.shape
    W = groups.rows.shape[1]
    keys = cache.keys[layer_idx].flatten(0, 1)
    values = cache.values[layer_idx].flatten(0, 1)
    repeats = H // keys.shape[1]
    out = torch.zeros_like(q)
    for row in range(T):
        group, place = divmod(int(groups.places[row]), W)
        limit, position = int(groups.limits[group, place]), int(groups.positions[group, place])
        first = 0 if window is None else max(0, position - window + 1)
        pages = groups.tables[groups.tile_groups == group].flatten()
        cells = torch.tensor(
            [
                int(pages[cell // cache.page_size]) * cache.page_size + cell % cache.page_size
                for cell in range(first, limit + 1)
            ]
        )
        for head in range(H):
            k, v = keys[cells, head // repeats].float(), values[cells, head // repeats].float()
            weights = torch.softmax(k @ q[row, head].float() * scaling, dim=0)
            out[row, head] = (weights @ v).to(q.dtype)
    return out
