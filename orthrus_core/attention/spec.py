"""What an attention backend is made for."""

from dataclasses import dataclass

import torch


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
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    page_size: int
    max_context: int
    dtype: torch.dtype
    device: torch.device

    @property
    def repeats(self) -> int:
        """Query heads per K/V head."""
        return self.num_heads // self.num_kv_heads
