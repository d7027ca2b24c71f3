"""Which drafts stand: the longest prefix on which both views agree."""

import torch
from torch import Tensor


def longest_agreeing_prefix(draft_ids: Tensor, verify_ids: Tensor, num_drafts: Tensor) -> Tensor:
    """Count the drafts that the AR view agrees with before the first mismatch.

    Args:
        draft_ids: (S, K) int64, without the anchor; entries from `num_drafts` on are ignored.
        verify_ids: (S, K+1) int64, the AR choice after the anchor and after each draft.
        num_drafts: (S,) int64, how many drafts each sequence has, each in [0, K].
    Returns:
        (S,) int64 `num_accepted`, each in [0, num_drafts].
    """
    return count_standing(draft_ids == verify_ids[:, : draft_ids.shape[1]], num_drafts)


def count_standing(stands: Tensor, num_drafts: Tensor) -> Tensor:
    """Count the drafts before the first one that does not stand.

    Args:
        stands: (S, K) bool; entries from `num_drafts` on are ignored.
        num_drafts: (S,) int64, each in [0, K].
    Returns:
        (S,) int64, each in [0, num_drafts].
    """
    proposed = torch.arange(stands.shape[1], device=stands.device) < num_drafts[:, None]
    return (stands & proposed).long().cumprod(dim=1).sum(dim=1)
