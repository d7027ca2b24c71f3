"""Conversations: rows with several turns, each of them a request of its own."""

from collections.abc import Sequence
from dataclasses import dataclass

from orthrus_core.engine.sequence import Completion
from orthrus_core.engine.stats import CompletionStats
from orthrus_core.request import Request


@dataclass(frozen=True)
class Turn:
    """What was asked, and what became of it.

    Attributes:
        text: of the completion; None on error.
        truncated_tokens: cut from the prompt.
        prefill: the beginning of the answer, in the prompt.
        is_copy: whether another request was generated in its place.
    """

    request: Request
    completion: Completion
    text: str | None = None
    truncated_tokens: int = 0
    prefill: str = ""
    is_copy: bool = False


@dataclass(frozen=True)
class Conversation(Completion):
    """What became of a row with several turns: the last one's completion, with the counts of all.

    Attributes:
        turns: those that ran, at least one.
    """

    turns: tuple[Turn, ...] = ()

    @staticmethod
    def of(turns: Sequence[Turn], error: str | None) -> "Conversation":
        """Args: error says why the last turn, or the one behind it, has no completion; None: it has one."""
        last = vars(turns[-1].completion)
        if error is not None:
            last = last | {"finish_reason": "error", "error": error}
        total = CompletionStats.total([turn.completion.stats for turn in turns])
        return Conversation(**(last | {"stats": total}), turns=tuple(turns))


def turns_of(request: Request, completion: Completion) -> Sequence[Turn]:
    """The turns of a row; of one that is no conversation, the only one."""
    return completion.turns if isinstance(completion, Conversation) else [Turn(request, completion)]
