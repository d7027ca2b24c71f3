"""Attention on CPUs through the compiled kernel."""

import torch
from torch import Tensor

from orthrus_core.attention.backend import LayerAttend
from orthrus_core.attention.kernel import KernelShape, paged_attend
from orthrus_core.attention.rows import SpanRows
from orthrus_core.attention.view import AttentionLayer
from orthrus_core.cache import KVCache

torch.library.define(
    "orthrus::paged_attend",
    "(Tensor q, Tensor k, Tensor v, Tensor(a!) keys, Tensor(b!) values, Tensor packed, Tensor page_tables,"
    " float scaling, int window, float softcap, str kernel) -> Tensor",
)
torch.library.impl("orthrus::paged_attend", "cpu", paged_attend)


@torch.library.register_fake("orthrus::paged_attend")
def _(q: Tensor, k, v, keys, values, packed, page_tables, scaling, window, softcap, kernel) -> Tensor:
    return torch.empty(q.shape, dtype=q.dtype, device=q.device)


class NativeAttention:
    """Calls the kernel; see `AttentionBackend`. Keys lie 16 cells to a vector, values by cell."""

    name = "native"
    has_static_shapes = True

    def __init__(self, kernel: str, shape: KernelShape, *, num_kv_heads: int):
        """Args: kernel is the path that `build_kernel` returned for this shape."""
        self._kernel = kernel
        self._shape = shape
        self._num_kv_heads = num_kv_heads

    def new_cache(self, *, num_layers: int, num_pages: int) -> KVCache:
        """Allocate keys (num_pages, Hkv, Dh, page_size), values (num_pages, Hkv, page_size, Dh)."""
        Hkv, Dh, page_size = self._num_kv_heads, self._shape.head_dim, self._shape.page_size
        return KVCache(
            num_layers=num_layers,
            key_shape=(num_pages, Hkv, Dh, page_size),
            value_shape=(num_pages, Hkv, page_size, Dh),
            page_size=page_size,
            dtype=self._shape.dtype,
            device=torch.device("cpu"),
        )

    def arrange(self, spans: SpanRows, num_rows: int) -> None:
        """Nothing: the packed rows are all the kernel needs."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layer: AttentionLayer, at: LayerAttend) -> Tensor:
        """See `AttentionBackend.attend`."""
        window, softcap = layer.sliding_window or 0, layer.softcap or 0.0
        return torch.ops.orthrus.paged_attend(
            *(q, k, v, at.keys, at.values, at.packed, at.page_tables),
            *(layer.scaling, window, softcap, self._kernel),
        )
