"""Which tokens of a packed batch become anchors, and which slots of their blocks can be trained."""

from typing import NamedTuple

import torch
from torch import Tensor

from orthrus_core.training.packing import PackedBatch, has_next


class Blocks(NamedTuple):
    """Blocks to train in one packed batch: A per packed row, K slots each.

    Slot i of a block anchored at token t proposes token t + i + 1, as the AR view does at token t + i.

    Attributes:
        anchor_idx: (B, A) int64, place of the anchor in its packed row; distinct within a row, ascending.
        slot_idx: (B, A, K) int64, place of the token whose AR row teaches the slot; clamped to the row.
        in_block: (B, A, K) bool, slots of the block, the first of the K (a block can be shorter).
        is_trained: (B, A, K) bool, slots in the block that have a teacher in their own document.
    """

    anchor_idx: Tensor
    slot_idx: Tensor
    in_block: Tensor
    is_trained: Tensor

    def to(self, device: torch.device) -> "Blocks":
        """The same blocks on `device`."""
        return Blocks(*(part.to(device) for part in self))

    def shortened(self, length: int) -> "Blocks":
        """The same blocks cut to at most `length` slots, as a loaded engine does; shapes stay."""
        kept = torch.arange(self.in_block.shape[-1], device=self.in_block.device) < length
        return self._replace(in_block=self.in_block & kept, is_trained=self.is_trained & kept)


def can_anchor(batch: PackedBatch) -> Tensor:
    """(B, N) bool: emitted tokens with a token after them in their document."""
    return batch.is_completion & has_next(batch)


def sample_blocks(
    batch: PackedBatch,
    *,
    num_anchors: int,
    block_size: int,
    shorten_probability: float = 0.0,
    generator: torch.Generator,
) -> Blocks:
    """Draw random distinct anchors in every packed row.

    A row with fewer possible anchors than `num_anchors` gets blocks without trained slots in their place.
    Anchors ascend, so that blocks side by side see nearly the same text: tiles of a mask are empty or full.

    Args:
        num_anchors: A, at most the row length is used.
        shorten_probability: share of blocks cut to a random length of 2 to K - 1, as a loaded engine does.
        generator: CPU generator; the only source of chance.
    """
    possible = can_anchor(batch).cpu()
    chance = torch.rand(possible.shape, generator=generator).masked_fill(~possible, -1.0)
    anchor_idx = chance.topk(min(num_anchors, possible.shape[1]), dim=1).indices.sort(dim=1).values
    is_anchor = possible.gather(1, anchor_idx)
    lengths = _block_lengths(anchor_idx.shape, block_size, shorten_probability, generator)
    in_block = torch.arange(block_size) < lengths[..., None]
    return _teachable(batch, anchor_idx, in_block, is_anchor)


def _block_lengths(
    shape: torch.Size, block_size: int, shorten_probability: float, generator: torch.Generator
) -> Tensor:
    lengths = torch.full(shape, block_size)
    if shorten_probability == 0 or block_size < 3:
        return lengths
    shorter = torch.randint(2, block_size, shape, generator=generator)
    return torch.where(torch.rand(shape, generator=generator) < shorten_probability, shorter, lengths)


def _teachable(batch: PackedBatch, anchor_idx: Tensor, in_block: Tensor, is_anchor: Tensor) -> Blocks:
    device = batch.input_ids.device
    anchor_idx, in_block, is_anchor = (x.to(device) for x in (anchor_idx, in_block, is_anchor))
    N, K = batch.input_ids.shape[1], in_block.shape[-1]
    wanted_idx = anchor_idx[..., None] + torch.arange(K, device=device)
    slot_idx = wanted_idx.clamp(max=N - 1)
    same_document = _at(batch.document_idx, slot_idx) == _at(batch.document_idx, anchor_idx)[..., None]
    has_teacher = (wanted_idx < N) & same_document & _at(has_next(batch), slot_idx)
    return Blocks(anchor_idx, slot_idx, in_block, in_block & has_teacher & is_anchor[..., None])


def _at(values: Tensor, idx: Tensor) -> Tensor:
    """values (B, N) at idx (B, ...), per packed row."""
    return values.gather(1, idx.flatten(1)).view(idx.shape)


def block_ids(batch: PackedBatch, blocks: Blocks, *, mask_token_id: int) -> Tensor:
    """(B, A * K) int64 input of the diffusion view: anchor, then masks, block after block."""
    ids = torch.full_like(blocks.slot_idx, mask_token_id)
    ids[..., 0] = _at(batch.input_ids, blocks.anchor_idx)
    return ids.flatten(1)


def block_positions(batch: PackedBatch, blocks: Blocks) -> Tensor:
    """(B, A * K) int64 positions: the anchor's own and those after it."""
    offsets = torch.arange(blocks.slot_idx.shape[-1], device=blocks.slot_idx.device)
    return (_at(batch.position_ids, blocks.anchor_idx)[..., None] + offsets).flatten(1)
