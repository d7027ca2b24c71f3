"""Where a completion ends: exactly where plain AR decoding would have stopped."""

from collections.abc import Collection, Sequence
from typing import Literal

FinishReason = Literal["stop", "length", "context", "error"]


def cut_at_stop(
    new_ids: Sequence[int], *, stop_ids: Collection[int], length_left: int, context_left: int
) -> tuple[list[int], FinishReason | None]:
    """Cut accepted tokens at the first stop rule that holds.

    Args:
        new_ids: tokens accepted in this step, at least one.
        stop_ids: ids that end a completion; the id itself is emitted.
        length_left: tokens until max_new_tokens, >= 1.
        context_left: tokens until max_context, >= 1.
    Returns:
        The tokens to emit, and why the completion ends there (None: it goes on).
    """
    for count, token_id in enumerate(new_ids, start=1):
        if token_id in stop_ids:
            return list(new_ids[:count]), "stop"
        if count == length_left:
            return list(new_ids[:count]), "length"
        if count == context_left:
            return list(new_ids[:count]), "context"
    return list(new_ids), None
