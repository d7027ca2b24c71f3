"""The attention of both training passes as FlexAttention kernels, for CUDA."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from orthrus_core.attention.view import Attend, AttentionLayer
from orthrus_core.training.attend import ByWindow, KeysAndValues
from orthrus_core.training.masks import TILE, Sight, block_mask


class FlexAttention:
    """Tiles without a visible pair are left out, others are masked inside the kernel.

    Text and slots come in multiples of `tile`, so that no kernel has to look at a ragged edge.
    """

    tile = TILE

    def __init__(self, windows: Iterable[int | None] = (), *, compiled: bool = True) -> None:
        """Prepare the kernel.

        Args:
            windows: the model's sliding windows, as far as known.
            compiled: without it all scores are held at once: for tests, and where a surrounding torch.compile
                takes it in.
        """
        self._windows = tuple(windows)
        # Every shape gets a kernel of its own: there are three or four in a run.
        self._kernel: Any = torch.compile(flex_attention, dynamic=False) if compiled else flex_attention

    def over_text(self, sight: Sight) -> Attend:
        """See `PassAttention`."""
        masks = ByWindow(sight, block_mask, self._windows)

        def attend(layer: AttentionLayer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return self._run(layer, q, k, v, masks.of(layer))

        return attend

    def over_blocks(self, recorded: KeysAndValues, sight: Sight, block_size: int) -> Attend:
        """See `PassAttention`."""
        masks = ByWindow(sight, block_mask, self._windows)

        def attend(layer: AttentionLayer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            text_k, text_v = recorded[layer.layer_idx]
            dtype = text_v.dtype  # a view with FP32 weights beside a BF16 backbone comes in both
            k = torch.cat([text_k.to(dtype), k.to(dtype)], dim=2)
            v = torch.cat([text_v, v.to(dtype)], dim=2)
            return self._run(layer, q, k, v, masks.of(layer))

        return attend

    def _run(self, layer: AttentionLayer, q: Tensor, k: Tensor, v: Tensor, mask: BlockMask) -> Tensor:
        """q (B, H, Q, Dh), k and v (B, Hkv, M, Dh); returns (B, Q, H, Dh) in v's dtype."""
        out = self._kernel(
            q.to(v.dtype),
            k.to(v.dtype),
            v,
            score_mod=None if layer.softcap is None else _capped(layer.softcap),
            block_mask=mask,
            scale=layer.scaling,
            enable_gqa=q.shape[1] != k.shape[1],
        )
        return out.transpose(1, 2)


@functools.cache
def _capped(softcap: float) -> Callable[..., Tensor]:
    """c * tanh(score / c); the same function for the same c, so that kernels are made once."""

    def cap(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return torch.tanh(score / softcap) * softcap

    return cap
