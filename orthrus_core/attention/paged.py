"""Write-then-attend: the one attention primitive of both views."""

from collections.abc import Callable

from torch import Tensor

from orthrus_core.attention.sdpa import attend_sdpa
from orthrus_core.cache import KVCache
from orthrus_core.decoding.rows import TokenRows
from orthrus_core.models.attention import DualViewAttention


class PagedAttend:
    """Writes a forward's K/V to its cells, then lets every token row attend up to its limit.

    An instance belongs to one forward; the model calls it once per layer.
    """

    def __init__(self, cache: KVCache, rows: TokenRows, attend: Callable[..., Tensor] = attend_sdpa):
        self._cache = cache
        self._rows = rows
        self._attend = attend

    def __call__(self, layer: DualViewAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `orthrus_core.models.attention.Attend`; here B = 1 and N = T."""
        q, k, v = (x[0].transpose(0, 1) for x in (q, k, v))  # (T, heads, Dh)
        self._cache.write(layer.layer_idx, self._rows.cells, k, v)
        out = self._attend(
            q,
            self._cache,
            self._rows.groups,
            layer_idx=layer.layer_idx,
            scaling=layer.scaling,
            window=layer.sliding_window,
        )
        return out[None]
