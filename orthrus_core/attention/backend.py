"""Who does the attention: one call behind which each device has its own kernel and K/V layout."""

from typing import Any, Protocol

import torch
from torch import Tensor

from orthrus_core.attention.rows import SpanRows
from orthrus_core.attention.view import AttentionLayer
from orthrus_core.cache import KVCache


class AttentionBackend(Protocol):
    """Owns the layout of the K/V pages and attends over them.

    Attributes:
        name: for manifests and reports.
        has_static_shapes: whether `attend` runs the same shapes in every forward of T rows, so that it may be
            compiled.
    """

    name: str
    has_static_shapes: bool

    def new_cache(self, *, num_layers: int, num_pages: int, page_size: int, device: torch.device) -> KVCache:
        """Allocate the pages of all layers."""
        ...

    def arrange(self, spans: SpanRows, num_rows: int, device: torch.device) -> Any:
        """Derive, once per forward and on the host, what `attend` needs beside the rows.

        Args:
            spans: the rows in use.
            num_rows: T.
        """
        ...

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        layer: AttentionLayer,
        *,
        keys: Tensor,
        values: Tensor,
        packed: Tensor,
        page_tables: Tensor,
        arrangement: Any,
    ) -> Tensor:
        """Write T rows' K/V to their cells, then let every row attend up to its limit.

        Args:
            q: (T, H, Dh).
            k: (T, Hkv, Dh).
            v: (T, Hkv, Dh).
            layer: whose scaling, sliding window and softcap count.
            keys: one layer's pages, laid out as `new_cache` made them; so are `values`.
            packed: (5, T) int64, see `TokenRows`.
            page_tables: (slots, pages per sequence) int64.
            arrangement: from `arrange`.
        Returns:
            (T, H, Dh); what rows left over get means nothing.
        """
        ...


class PagedAttend:
    """Write-then-attend: hands each layer's queries, keys and values to the backend, with that layer's pages.

    The `Attend` of one forward; the model calls it once per layer.
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
        """See `Attend`; here B = 1 and N = T."""
        q, k, v = (x[0].transpose(0, 1) for x in (q, k, v))  # (T, heads, Dh)
        out = self._backend.attend(
            q,
            k,
            v,
            layer,
            keys=self._cache.keys[layer.layer_idx],
            values=self._cache.values[layer.layer_idx],
            packed=self._packed,
            page_tables=self._page_tables,
            arrangement=self._arrangement,
        )
        return out[None]


class BranchAttend(PagedAttend):
    """`PagedAttend` of rows in branches, which begin with copies of their sequences' cells."""

    def __init__(self, copies: Tensor, *args: Any):
        """Args: copies as from `PageTables.branch`, on the device; then those of `PagedAttend`."""
        super().__init__(*args)
        self._copies = copies

    def __call__(self, layer: AttentionLayer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `Attend`."""
        self._cache.copy_pages(layer.layer_idx, self._copies[0], self._copies[1])
        return super().__call__(layer, q, k, v)
