"""The attention arithmetic that both training passes share."""

import torch
from torch import Tensor

from orthrus_core.models.attention import AttentionLayer
from orthrus_core.training.masks import within_window


def masked_attention(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor, scaling: float, softcap: float | None = None
) -> Tensor:
    """Attention with an explicit mask: products in autocast's dtype, softmax in FP32.

    Written out because SDPA is slow in the backward on CPUs: 16 rows of 256 tokens, 6 heads of 32, took
    51 ms with SDPA in FP32 (more in BF16) and 25 ms like this in BF16.

    Args:
        q: (B, H, N, Dh). k, v: (B, Hkv, M, Dh), H a multiple of Hkv.
        mask: (B, 1, N, M) bool, True where the query sees the key. Every query sees at least one key.
        scaling: factor on q @ k.
        softcap: see `AttentionLayer`.
    Returns:
        (B, N, H, Dh) in the dtype of the products.
    """
    B, H, N, Dh = q.shape
    Hkv, M = k.shape[1], k.shape[2]
    grouped = (q * scaling).reshape(B, Hkv, H // Hkv * N, Dh)
    hidden = torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, float("-inf"))
    scores = (grouped @ k.transpose(-1, -2)).view(B, H, N, M).float()
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    weights = (scores + hidden).softmax(-1)
    if torch.is_autocast_enabled(q.device.type):
        weights = weights.to(torch.get_autocast_dtype(q.device.type))
    out = weights.view(B, Hkv, H // Hkv * N, M) @ v.to(weights.dtype)
    return out.view(B, H, N, Dh).transpose(1, 2)


class LayerMasks:
    """The mask of every layer: one for all, narrowed for those with a sliding window."""

    def __init__(self, mask: Tensor, query_positions: Tensor, key_positions: Tensor) -> None:
        """mask: (B, 1, N, M) bool. query_positions: (B, N). key_positions: (B, M), each in its document."""
        self._mask = mask
        self._positions = (query_positions, key_positions)
        self._narrowed: dict[int, Tensor] = {}

    def of(self, layer: AttentionLayer) -> Tensor:
        """(B, 1, N, M) bool."""
        window = layer.sliding_window
        if window is None:
            return self._mask
        if window not in self._narrowed:
            self._narrowed[window] = self._mask & within_window(*self._positions, window)
        return self._narrowed[window]


class RecordingAttend:
    """AR attention that keeps the keys and values of every layer."""

    def __init__(self, masks: LayerMasks) -> None:
        """masks: over N tokens, see `causal_document_mask`."""
        self._masks = masks
        self.recorded: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, layer: AttentionLayer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Record k and v (B, Hkv, N, Dh), then attend."""
        self.recorded[layer.layer_idx] = (k, v)
        return _attend(layer, q, k, v, self._masks)


class BlockAttend:
    """Diffusion attention over recorded AR keys and the keys of the blocks themselves."""

    def __init__(self, recorded: dict[int, tuple[Tensor, Tensor]], masks: LayerMasks) -> None:
        """masks: of A * K queries over N + A * K keys, see `block_diffusion_mask`."""
        self._recorded = recorded
        self._masks = masks

    def __call__(self, layer: AttentionLayer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend with q (B, H, A * K, Dh); k and v (B, Hkv, A * K, Dh) join the recorded ones."""
        recorded_k, recorded_v = self._recorded[layer.layer_idx]
        k = torch.cat([recorded_k.to(k.dtype), k], dim=2)
        v = torch.cat([recorded_v.to(v.dtype), v], dim=2)
        return _attend(layer, q, k, v, self._masks)


def _attend(layer: AttentionLayer, q: Tensor, k: Tensor, v: Tensor, masks: LayerMasks) -> Tensor:
    mask = masks.of(layer)
    return masked_attention(q, k, v, mask=mask, scaling=layer.scaling, softcap=layer.softcap)
