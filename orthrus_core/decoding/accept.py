"""Which drafts stand: the longest prefix on which both views agree."""

import numpy as np
import torch
from torch import Tensor

NO_TOKEN = -1


def longest_agreeing_prefix(
    token_ids: np.ndarray, choice_ids: np.ndarray, anchor_rows: np.ndarray, num_drafts: np.ndarray
) -> np.ndarray:
    """Count the drafts that the AR view agrees with before the first mismatch.

    Args:
        token_ids: (T,) int64, tokens of a verify forward's rows: each block's anchor, then its drafts.
        choice_ids: (T,) int64, what follows each row. After a choice comes NO_TOKEN where the rejection rule
            ended a block there, be it with the draft's own id.
        anchor_rows: (S,) int64, the row of each block's anchor.
        num_drafts: (S,) int64.
    Returns:
        (S,) int64 `num_accepted`, each in [0, num_drafts].
    """
    agrees = (choice_ids[:-1] == token_ids[1:]) & (choice_ids[1:] != NO_TOKEN)
    mismatches = np.append(np.flatnonzero(~agrees), len(choice_ids))
    return np.minimum(mismatches[np.searchsorted(mismatches, anchor_rows)] - anchor_rows, num_drafts)


def count_standing(stands: Tensor, num_drafts: Tensor) -> Tensor:
    """Count the drafts before the first one that does not stand, on the device.

    Args:
        stands: (S, K) bool; entries from `num_drafts` on are ignored.
        num_drafts: (S,) int64, each in [0, K].
    Returns:
        (S,) int64, each in [0, num_drafts].
    """
    proposed = torch.arange(stands.shape[1], device=stands.device) < num_drafts[:, None]
    return (stands & proposed).long().cumprod(dim=1).sum(dim=1)
