"""What an attention backend is made for."""

from dataclasses import dataclass

import torch

from orthrus_core.cache import KVCache


@dataclass(frozen=True)
class AttentionSpec:
    """What is fixed for an engine's life.

    Attributes:
        num_heads: H, query heads.
        num_kv_heads: Hkv, key/value heads.
        head_dim: Dh.
        page_size: cells per page.
        max_context: most cells of a sequence.
        dtype: of queries, keys and values.
        device: where they are.
        has_softcap: whether layers squash their scores, see `AttentionLayer`.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    page_size: int
    max_context: int
    dtype: torch.dtype
    device: torch.device
    has_softcap: bool = False

    @property
    def repeats(self) -> int:
        """Query heads per K/V head."""
        return self.num_heads // self.num_kv_heads

    def new_cache(self, *, num_layers: int, num_pages: int) -> KVCache:
        """Allocate (num_pages, page_size, Hkv, Dh) for keys and for values."""
        shape = (num_pages, self.page_size, self.num_kv_heads, self.head_dim)
        return KVCache(
            num_layers=num_layers,
            key_shape=shape,
            value_shape=shape,
            page_size=self.page_size,
            dtype=self.dtype,
            device=self.device,
        )
