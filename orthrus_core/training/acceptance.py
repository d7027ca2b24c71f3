"""Acceptance of drafts against a given text."""

import torch
from torch import Tensor


class AcceptanceCounts:
    """Counts, over blocks, how far drafts agree with the text before the first mismatch."""

    def __init__(self, block_size: int) -> None:
        """Start at zero; a block proposes `block_size` drafts, the last slot's included."""
        self._num_blocks = torch.zeros((), dtype=torch.int64)
        self._reached = torch.zeros(block_size, dtype=torch.int64)
        self._accepted = torch.zeros(block_size, dtype=torch.int64)

    def add(self, agrees: Tensor, is_draft: Tensor) -> None:
        """Count blocks.

        Args:
            agrees: (B, A, K) bool, the draft equals the text.
            is_draft: (B, A, K) bool, the text goes on that far. Blocks without a first draft do not count.
        """
        accepted = (agrees & is_draft).long().cumprod(-1)
        before = torch.cat([torch.ones_like(accepted[..., :1]), accepted[..., :-1]], dim=-1)
        reached = before * is_draft
        self._num_blocks += is_draft[..., 0].sum().cpu()
        self._reached += reached.flatten(0, 1).sum(0).cpu()
        self._accepted += accepted.flatten(0, 1).sum(0).cpu()

    def figures(self) -> dict[str, float]:
        """`acceptance_length` (accepted + 1) and, by position, the share accepted of those reached."""
        length = 1 + (self._accepted.sum() / self._num_blocks.clamp(min=1)).item()
        shares = (self._accepted / self._reached.clamp(min=1)).tolist()
        by_position = {f"accepted_at_{position}": share for position, share in enumerate(shares, start=1)}
        return {"acceptance_length": length, **by_position}
