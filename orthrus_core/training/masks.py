"""Who sees whom during training. One rule per function; True means visible."""

from torch import Tensor

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
