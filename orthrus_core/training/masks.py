"""Who sees whom during training. One rule per function; True means visible."""

import torch
from torch import Tensor

from orthrus_core.training.anchors import Blocks
from orthrus_core.training.packing import PackedBatch


def same_document(batch: PackedBatch) -> Tensor:
    """(B, N, N) bool: query and key belong to one document (padding counts as one)."""
    return batch.document_idx[:, :, None] == batch.document_idx[:, None, :]


def causal_document_mask(batch: PackedBatch) -> Tensor:
    """Mask of the AR view: a token sees itself and what stands before it in its document.

    Returns:
        (B, 1, N, N) bool, rows are queries. No row is empty: a token always sees itself.
    """
    position_ids = batch.position_ids
    not_later = position_ids[:, None, :] <= position_ids[:, :, None]
    # All padding has position 0, so there `not_later` holds everywhere and no row is empty.
    return (same_document(batch) & not_later)[:, None]


def within_window(query_positions: Tensor, key_positions: Tensor, window: int) -> Tensor:
    """Of what a mask shows, the part that a layer with a sliding window sees.

    The past is cut as for the AR row at the same position; what comes after a row is left to the mask.

    Args:
        query_positions: (B, N) int64, in the document.
        key_positions: (B, M) int64.
        window: positions up to its own that a row sees.
    Returns:
        (B, 1, N, M) bool.
    """
    return (query_positions[:, None, :, None] - key_positions[:, None, None, :]) < window


def before_anchor(batch: PackedBatch, blocks: Blocks) -> Tensor:
    """(B, A, N) bool: tokens that stand before the anchor in the anchor's document."""
    N = batch.input_ids.shape[1]
    document_of_anchor = batch.document_idx.gather(1, blocks.anchor_idx)
    earlier = torch.arange(N, device=blocks.anchor_idx.device) < blocks.anchor_idx[..., None]
    return (batch.document_idx[:, None, :] == document_of_anchor[..., None]) & earlier


def own_block(blocks: Blocks) -> Tensor:
    """(B, A, A * K) bool: slots that belong to the block, in both directions."""
    A = blocks.anchor_idx.shape[1]
    same_anchor = torch.eye(A, dtype=torch.bool, device=blocks.anchor_idx.device)
    return (same_anchor[None, :, :, None] & blocks.in_block[:, None]).flatten(2)


def block_diffusion_mask(batch: PackedBatch, blocks: Blocks) -> Tensor:
    """Mask of the diffusion view over [recorded AR keys, keys of all blocks].

    Returns:
        (B, 1, A * K, N + A * K) bool, rows are queries. All slots of a block see the same keys.
    """
    K = blocks.slot_idx.shape[-1]
    per_block = torch.cat([before_anchor(batch, blocks), own_block(blocks)], dim=-1)
    return per_block.repeat_interleave(K, dim=1)[:, None]
