"""Who does the attention: one call behind which each device has its own kernel and K/V layout."""

from typing import Any, NamedTuple, Protocol

from torch import Tensor

from orthrus_core.attention.rows import SpanRows
from orthrus_core.attention.view import AttentionLayer
from orthrus_core.cache import KVCache, copy_pages


class AttentionBackend(Protocol):
    """Owns the layout of the K/V pages and attends over them.

    Attributes:
        name: for manifests and reports.
        has_static_shapes: whether `attend` runs the same shapes in every forward of T rows, so that it may be
            compiled.
    """

    name: str
    has_static_shapes: bool

    def new_cache(self, *, num_layers: int, num_pages: int) -> KVCache:
        """Allocate the pages of all layers."""
        ...

    def arrange(self, spans: SpanRows, num_rows: int) -> Any:
        """Derive, once per forward and on the host, what `attend` needs beside the rows.

        Args:
            spans: the rows in use.
            num_rows: T.
        """
        ...

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layer: AttentionLayer, at: "LayerAttend") -> Tensor:
        """Write T rows' K/V to their cells, then let every row attend up to its limit.

        Args:
            q: (T, H, Dh).
            k: (T, Hkv, Dh).
            v: (T, Hkv, Dh).
            layer: whose scaling, sliding window and softcap count.
            at: the layer's pages and the rows.
        Returns:
            (T, H, Dh); what rows left over get means nothing.
        """
        ...


class PagedAttend:
    """Write-then-attend: hands each layer's queries, keys and values to the backend, with that layer's pages.

    The `Attend` of one forward; the model calls it once per layer.
    """

    def __init__(
        self,
        backend: AttentionBackend,
        cache: KVCache,
        packed: Tensor,
        page_tables: Tensor,
        arrangement: Any,
        copies: Tensor | None = None,
    ):
        """Args: copies are of the pages that rows in branches begin with, as from `PageTables.branch`, on
        the device; None: there are no branches. The others as in `LayerAttend`.
        """
        self._cache = cache
        self._arguments = backend, packed, page_tables, arrangement, copies

    def __call__(self, layer: AttentionLayer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `Attend`."""
        return self.of_layer(layer.layer_idx)(layer, q, k, v)

    def of_layer(self, layer_idx: int) -> "LayerAttend":
        """Return the attention of one layer."""
        return LayerAttend(self._cache.keys[layer_idx], self._cache.values[layer_idx], *self._arguments)


class LayerAttend(NamedTuple):
    """`PagedAttend` of one layer, whichever layer asks.

    Attributes:
        keys: the layer's pages, laid out as `AttentionBackend.new_cache` made them; so are `values`.
        backend: does the attention.
        packed: (5, T) int64, see `TokenRows`.
        page_tables: (slots, pages per sequence) int64.
        arrangement: from `AttentionBackend.arrange`.
        copies: see `PagedAttend`.
    """

    keys: Tensor
    values: Tensor
    backend: AttentionBackend
    packed: Tensor
    page_tables: Tensor
    arrangement: Any
    copies: Tensor | None = None

    def __call__(self, layer: AttentionLayer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `Attend`; here B = 1 and N = T."""
        if self.copies is not None:
            copy_pages((self.keys, self.values), *self.copies)
        q, k, v = (x[0].transpose(0, 1) for x in (q, k, v))  # (T, heads, Dh)
        return self.backend.attend(q, k, v, layer, self)[None]
