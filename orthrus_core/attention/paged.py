"""Write-then-attend: the one attention primitive of both views."""

from typing import Any

from torch import Tensor

from orthrus_core.attention.backend import AttentionBackend
from orthrus_core.cache import KVCache
from orthrus_core.models.attention import AttentionLayer


class PagedAttend:
    """Hands each layer's queries, keys and values to the attention backend, with that layer's pages.

    An instance belongs to one forward; the model calls it once per layer.
    """

    def __init__(
        self, backend: AttentionBackend, cache: KVCache, packed: Tensor, page_tables: Tensor, arrangement: Any
    ):
        """Args: as in `AttentionBackend.attend`."""
        self._backend = backend
        self._cache = cache
        self._packed = packed
        self._page_tables = page_tables
        self._arrangement = arrangement

    def __call__(self, layer: AttentionLayer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `orthrus_core.models.attention.Attend`; here B = 1 and N = T."""
        q, k, v = (x[0].transpose(0, 1) for x in (q, k, v))  # (T, heads, Dh)
        out = self._backend.attend(
            q,
            k,
            v,
            keys=self._cache.keys[layer.layer_idx],
            values=self._cache.values[layer.layer_idx],
            packed=self._packed,
            page_tables=self._page_tables,
            arrangement=self._arrangement,
            scaling=layer.scaling,
            window=layer.sliding_window,
            softcap=layer.softcap,
        )
        return out[None]
