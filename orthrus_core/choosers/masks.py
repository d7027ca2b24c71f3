"""Which tokens a grammar admits, row by row of a forward."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from orthrus_core.transfer import to_device

EXCLUDED = float("-inf")
WORD_BITS = 32


def num_words(vocab_size: int) -> int:
    """Return the int32 words of a mask: a bit per token, token 0 in the lowest bit of the first word."""
    return -(-vocab_size // WORD_BITS)


def bits_of(token_ids: Iterable[int], vocab_size: int) -> np.ndarray:
    """Return the mask (W,) int32 that allows these tokens; ids that the vocabulary lacks are left out."""
    bits = np.zeros(num_words(vocab_size) * WORD_BITS, dtype=np.uint8)
    bits[[token_id for token_id in token_ids if 0 <= token_id < vocab_size]] = 1
    return np.packbits(bits, bitorder="little").view(np.int32)


def allows(mask: np.ndarray, token_id: int) -> bool:
    """Return whether a mask (W,) int32 allows a token of the vocabulary."""
    return bool(int(mask[token_id // WORD_BITS]) >> token_id % WORD_BITS & 1)


@dataclass(frozen=True)
class RowMasks:
    """The masks of G of a forward's T token rows.

    Attributes:
        rows: (G,) int64.
        bits: (G, W) int32, a bit per token, token 0 in the lowest bit of the first word.
    """

    rows: Tensor
    bits: Tensor

    @classmethod
    def of(cls, rows: Sequence[int], masks: Sequence[np.ndarray], device: torch.device) -> Self:
        """Bring masks (W,) int32 of rows to the device, in one transfer."""
        table = np.concatenate([np.array(rows, dtype=np.int32)[:, None], np.stack(masks)], axis=1)
        on_device = to_device(table, device)
        return cls(on_device[:, 0].long(), on_device[:, 1:].contiguous())

    def lines(self, num_rows: int) -> Tensor:
        """Return (T,) int64, each row's line in `bits`, -1 where a row has no mask."""
        own = torch.arange(len(self.rows), device=self.rows.device)
        return own.new_full((num_rows,), -1).index_copy_(0, self.rows, own)

    def apply(self, logits: Tensor) -> Tensor:
        """Return the rows (G, V) of logits (T, V) in float32, -inf where a token is excluded."""
        octets = self.bits.view(torch.uint8)
        places = torch.arange(8, dtype=torch.uint8, device=octets.device)
        is_allowed = (octets[:, :, None] >> places & 1).flatten(1)[:, : logits.shape[1]].bool()
        return logits[self.rows].float().masked_fill(~is_allowed, EXCLUDED)
