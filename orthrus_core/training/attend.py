"""The attention of both training passes, written out: any device, masks in full, softmax in FP32."""

from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from orthrus_core.attention.view import Attend, AttentionLayer
from orthrus_core.training.masks import Sight

T = TypeVar("T")
KeysAndValues = dict[int, tuple[Tensor, Tensor]]


class PassAttention(Protocol):
    """A way to do the attention of one training pass after the other.

    Attributes:
        tile: text and slots are padded to multiples of it.
    """

    tile: int

    def over_text(self, sight: Sight) -> Attend:
        """The AR view's attention of a packed batch."""

    def over_blocks(self, recorded: KeysAndValues, sight: Sight, block_size: int) -> Attend:
        """The diffusion view's attention over recorded AR keys (B, Hkv, N, Dh) and those of the blocks."""


class ByWindow(Generic[T]):
    """A mask in some form for every sliding window of a model, made once each."""

    def __init__(self, sight: Sight, make: Callable[[Sight], T], windows: Iterable[int | None]) -> None:
        """windows: those to make now; others are made when a layer asks."""
        self._sight = sight
        self._make = make
        self._made = {window: make(sight.within(window)) for window in windows}

    def of(self, layer: AttentionLayer) -> T:
        """The mask of a layer."""
        window = layer.sliding_window
        if window not in self._made:
            self._made[window] = self._make(self._sight.within(window))
        return self._made[window]


class Recording:
    """AR attention that keeps the keys and values of every layer."""

    def __init__(self, attend: Attend) -> None:
        self._attend = attend
        self.recorded: KeysAndValues = {}

    def __call__(self, layer: AttentionLayer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Record k and v (B, Hkv, N, Dh), then attend."""
        self.recorded[layer.layer_idx] = (k, v)
        return self._attend(layer, q, k, v)


class MaskedAttention:
    """The written-out form.

    Blocks attend in two products, to the text and to themselves, under one softmax: (N + K) scores per slot
    and not N + A * K. The recorded keys get no gradient, so its backward has no products for them.
    """

    tile = 1

    def __init__(self, windows: Iterable[int | None] = ()) -> None:
        """windows: the model's sliding windows, as far as known."""
        self._windows = tuple(windows)

    def over_text(self, sight: Sight) -> Attend:
        """See `PassAttention`."""
        masks = ByWindow(sight, Sight.text_mask, self._windows)

        def attend(layer: AttentionLayer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return masked_attention(
                q, k, v, mask=masks.of(layer), scaling=layer.scaling, softcap=layer.softcap
            )

        return attend

    def over_blocks(self, recorded: KeysAndValues, sight: Sight, block_size: int) -> Attend:
        """See `PassAttention`."""
        masks = ByWindow(sight, lambda seen: (seen.text_mask(), seen.own_mask(block_size)), self._windows)

        def attend(layer: AttentionLayer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            text_mask, own_mask = masks.of(layer)
            return block_attention(
                q,
                (k, v),
                recorded[layer.layer_idx],
                text_mask=text_mask,
                own_mask=own_mask,
                scaling=layer.scaling,
                softcap=layer.softcap,
            )

        return attend


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
    scores = (grouped @ k.transpose(-1, -2)).view(B, H, N, M)
    weights = _softmax(scores, mask, softcap)
    out = weights.view(B, Hkv, H // Hkv * N, M) @ v.to(weights.dtype)
    return out.view(B, H, N, Dh).transpose(1, 2)


def block_attention(
    q: Tensor,
    own: tuple[Tensor, Tensor],
    text: tuple[Tensor, Tensor],
    *,
    text_mask: Tensor,
    own_mask: Tensor,
    scaling: float,
    softcap: float | None = None,
) -> Tensor:
    """Attention of blocks to the text and to themselves; precision as in `masked_attention`.

    Args:
        q: (B, H, A * K, Dh).
        own: keys and values of the slots, (B, Hkv, A * K, Dh) each. text: of the text, (B, Hkv, N, Dh) each.
        text_mask: (B, 1, A * K, N) bool. own_mask: (B, 1, A * K, K) bool, over the slots of the own block.
    Returns:
        (B, A * K, H, Dh).
    """
    B, H, Q, Dh = q.shape
    Hkv, K, N = own[0].shape[1], own_mask.shape[-1], text_mask.shape[-1]
    by_block = (B, Hkv, Q // K, K, Dh)
    text_k, text_v = text
    grouped = (q * scaling).reshape(B, Hkv, H // Hkv * Q, Dh)
    text_scores = (grouped @ text_k.transpose(-1, -2)).view(B, H, Q, N)
    own_q = grouped.view(B, Hkv, H // Hkv, Q // K, K, Dh)
    own_k, own_v = (part.reshape(by_block).unsqueeze(2) for part in own)
    own_scores = (own_q @ own_k.transpose(-1, -2)).view(B, H, Q, K)
    scores, mask = torch.cat([text_scores, own_scores], -1), torch.cat([text_mask, own_mask], -1)
    text_weights, own_weights = _softmax(scores, mask, softcap).split([N, K], dim=-1)
    from_text = text_weights.reshape(B, Hkv, H // Hkv * Q, N) @ text_v.to(text_weights.dtype)
    own_weights = own_weights.reshape(B, Hkv, H // Hkv, Q // K, K, K)
    from_own = own_weights @ own_v.to(own_weights.dtype)
    return (from_text.view(B, H, Q, Dh) + from_own.view(B, H, Q, Dh)).transpose(1, 2)


def _softmax(scores: Tensor, mask: Tensor, softcap: float | None) -> Tensor:
    """Weights of masked scores in FP32, then in autocast's dtype where it is on."""
    hidden = torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, float("-inf"))
    scores = scores.float()
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    weights = (scores + hidden).softmax(-1)
    if torch.is_autocast_enabled(scores.device.type):
        weights = weights.to(torch.get_autocast_dtype(scores.device.type))
    return weights
