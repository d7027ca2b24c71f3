"""The attention arithmetic that both training passes share."""

import torch
from torch import Tensor

from orthrus_core.models.attention import DualViewAttention


def masked_attention(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor, scaling: float) -> Tensor:
    """Attention with an explicit mask: products in autocast's dtype, softmax in FP32.

    Written out because SDPA is slow in the backward on CPUs: 16 rows of 256 tokens, 6 heads of 32, took
    51 ms with SDPA in FP32 (more in BF16) and 25 ms like this in BF16.

    Args:
        q: (B, H, N, Dh). k, v: (B, Hkv, M, Dh), H a multiple of Hkv.
        mask: (B, 1, N, M) bool, True where the query sees the key. Every query sees at least one key.
        scaling: factor on q @ k.
    Returns:
        (B, N, H, Dh) in the dtype of the products.
    """
    B, H, N, Dh = q.shape
    Hkv, M = k.shape[1], k.shape[2]
    grouped = (q * scaling).reshape(B, Hkv, H // Hkv * N, Dh)
    hidden = torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, float("-inf"))
    scores = (grouped @ k.transpose(-1, -2)).view(B, H, N, M).float()
    weights = (scores + hidden).softmax(-1)
    if torch.is_autocast_enabled(q.device.type):
        weights = weights.to(torch.get_autocast_dtype(q.device.type))
    out = weights.view(B, Hkv, H // Hkv * N, M) @ v.to(weights.dtype)
    return out.view(B, H, N, Dh).transpose(1, 2)


class RecordingAttend:
    """AR attention that keeps the keys and values of every layer."""

    def __init__(self, mask: Tensor) -> None:
        """mask: (B, 1, N, N) bool, see `causal_document_mask`."""
        self._mask = mask
        self.recorded: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, layer: DualViewAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Record k and v (B, Hkv, N, Dh), then attend."""
        self.recorded[layer.layer_idx] = (k, v)
        return masked_attention(q, k, v, mask=self._mask, scaling=layer.scaling)


class BlockAttend:
    """Diffusion attention over recorded AR keys and the keys of the blocks themselves."""

    def __init__(self, recorded: dict[int, tuple[Tensor, Tensor]], mask: Tensor) -> None:
        """mask: (B, 1, A * K, N + A * K) bool, see `block_diffusion_mask`."""
        self._recorded = recorded
        self._mask = mask

    def __call__(self, layer: DualViewAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend with q (B, H, A * K, Dh); k and v (B, Hkv, A * K, Dh) join the recorded ones."""
        recorded_k, recorded_v = self._recorded[layer.layer_idx]
        k = torch.cat([recorded_k.to(k.dtype), k], dim=2)
        v = torch.cat([recorded_v.to(v.dtype), v], dim=2)
        return masked_attention(q, k, v, mask=self._mask, scaling=layer.scaling)
