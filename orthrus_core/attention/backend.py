"""Who does the attention: one call behind which each device has its own kernel and K/V layout."""

import logging
from typing import Any, Protocol

import torch
from torch import Tensor

from orthrus_core.attention.cuda import cuda_backend
from orthrus_core.attention.kernel import KernelError, KernelShape, build_kernel
from orthrus_core.attention.native import NativeAttention
from orthrus_core.attention.rows import SpanRows
from orthrus_core.attention.spec import AttentionSpec
from orthrus_core.attention.tiled import TiledAttention
from orthrus_core.cache import KVCache
from orthrus_core.errors import ConfigError
from orthrus_core.models.config import head_dim as head_dim_of

logger = logging.getLogger(__name__)


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
        """Write T rows' K/V to their cells, then let every row attend up to its limit.

        Args:
            q: (T, H, Dh).
            k: (T, Hkv, Dh).
            v: (T, Hkv, Dh).
            keys: one layer's pages, laid out as `new_cache` made them; so are `values`.
            packed: (5, T) int64, see `TokenRows`.
            page_tables: (slots, pages per sequence) int64.
            arrangement: from `arrange`.
            scaling: factor on the scores.
            window: cells up to its own that a row sees; None: all.
            softcap: c in c * tanh(score / c), taken before the softmax; None: not taken.
        Returns:
            (T, H, Dh); what rows left over get means nothing.
        """
        ...


def choose_backend(
    config: Any, *, page_size: int, max_context: int, device: torch.device, dtype: torch.dtype
) -> AttentionBackend:
    """Return the fastest backend that this device, model and machine can have.

    Args:
        config: of the model; its head counts, head size and softcap are read.
        page_size: cells of a page.
        max_context: most cells of a sequence.
        device: where the model is.
        dtype: of the model.
    """
    num_kv_heads, head_dim = config.num_key_value_heads, head_dim_of(config)
    if device.type == "cpu":
        shape = KernelShape(head_dim, config.num_attention_heads // num_kv_heads, page_size, dtype)
        try:
            return NativeAttention(build_kernel(shape), shape, num_kv_heads=num_kv_heads)
        except KernelError as error:
            logger.warning("attention=tiled, slower than the compiled kernel, because %s", error)
    if device.type == "cuda":
        heads = (config.num_attention_heads, num_kv_heads, head_dim)
        has_softcap = getattr(config, "attn_logit_softcapping", None) is not None
        try:
            return cuda_backend(AttentionSpec(*heads, page_size, max_context, dtype, device, has_softcap))
        except ConfigError as error:
            logger.warning("attention=tiled, slower and without CUDA graphs, because %s", error)
    return TiledAttention(num_kv_heads=num_kv_heads, head_dim=head_dim, dtype=dtype)
