"""Acceptance of drafts against a given text."""

from collections.abc import Iterator

import torch
from torch import Tensor

SHORT_LENGTHS = (4, 8, 16)


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

    @property
    def length(self) -> float:
        """Mean acceptance length: accepted drafts + 1."""
        return 1 + (self._accepted.sum() / self._num_blocks.clamp(min=1)).item()

    def figures(self) -> dict[str, float]:
        """`acceptance_length` (accepted + 1) and, by position, the share accepted of those reached."""
        shares = (self._accepted / self._reached.clamp(min=1)).tolist()
        by_position = {f"accepted_at_{position}": share for position, share in enumerate(shares, start=1)}
        return {"acceptance_length": self.length, **by_position}


class BlockLengths:
    """Acceptance of the same blocks at several lengths: 4, 8 and 16 slots, where K is more, and K."""

    def __init__(self, block_size: int) -> None:
        """Start at zero for all lengths of a head of this K."""
        lengths = [*(length for length in SHORT_LENGTHS if length < block_size), block_size]
        self._counts = {length: AcceptanceCounts(block_size) for length in lengths}

    def __iter__(self) -> Iterator[int]:
        """The lengths, rising; the last is K."""
        return iter(self._counts)

    def add(self, length: int, agrees: Tensor, is_draft: Tensor) -> None:
        """Count blocks of one length, see `AcceptanceCounts.add`."""
        self._counts[length].add(agrees, is_draft)

    def figures(self) -> dict[str, float]:
        """Figures at K, and `acceptance_length_at_k` for every shorter length k."""
        *shorter, block_size = self._counts
        at_lengths = {f"acceptance_length_at_{length}": self._counts[length].length for length in shorter}
        return {**self._counts[block_size].figures(), **at_lengths}
