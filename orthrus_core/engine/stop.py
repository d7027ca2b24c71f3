"""Where a completion ends: exactly where plain AR decoding would have stopped."""

from collections.abc import Sequence
from typing import Literal, Protocol

FinishReason = Literal["stop", "length", "context", "error"]


class StopStrings(Protocol):
    """Looks for stop strings in the growing text of one completion.

    Attributes:
        found: the stop string that the text contains; None so far.
    """

    found: str | None

    def push(self, token_id: int) -> bool:
        """Add a token; whether the text contains a stop string now."""
        ...


def cut_at_stop(
    new_ids: Sequence[int],
    *,
    stop_ids: frozenset[int],
    length_left: int,
    context_left: int,
    stop_strings: StopStrings | None = None,
) -> tuple[list[int], FinishReason | None]:
    """Cut accepted tokens at the first stop rule that holds.

    Args:
        new_ids: tokens accepted in this step.
        stop_ids: ids that end a completion; the id itself is emitted.
        length_left: tokens until max_new_tokens; 0 where none is asked for.
        context_left: tokens until max_context, >= 1.
        stop_strings: gets every emitted token but a stop id; the token that completes a string is emitted.
    Returns:
        The tokens to emit, and why the completion ends there (None: it goes on).
    """
    if not length_left:
        return [], "length"
    is_short = stop_strings is None and length_left > len(new_ids) < context_left
    if is_short and stop_ids.isdisjoint(new_ids):
        return list(new_ids), None
    for count, token_id in enumerate(new_ids, start=1):
        if token_id in stop_ids or (stop_strings is not None and stop_strings.push(token_id)):
            return list(new_ids[:count]), "stop"
        if count == length_left:
            return list(new_ids[:count]), "length"
        if count == context_left:
            return list(new_ids[:count]), "context"
    return list(new_ids), None
