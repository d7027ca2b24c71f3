"""Control tokens in what rows say: kept as text, so that no row can end its turn or open another."""

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from orthrus_core.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, Any]


class ControlTokens:
    """What a template may write and a row may not: special tokens, and added ones in the template.

    What an assistant said keeps its added tokens (`<think>`, `<tool_call>`), since a model wrote them; the
    special ones, which end turns, are text there too.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", template: str):
        """Look the tokens up.

        Args:
            template: the chat template; empty: there is none.
        Raises:
            ConfigError: the installed transformers cannot mark them.
        """
        try:
            from transformers.utils.chat_template_utils import mark_control_tokens
        except ImportError:
            raise ConfigError(
                "input.prompt.special_tokens: text (the default with chat) needs transformers >= 5.23: "
                "pip install --upgrade transformers, or set special_tokens: parse"
            ) from None
        self._mark = mark_control_tokens
        named = set(tokenizer.chat_control_tokens or ())
        added = [token for token in tokenizer.added_tokens_decoder.values() if token.content.strip()]
        special = [token.content for token in added if token.special]
        self._special = _any_of(special)
        self._all = _any_of(
            special + [t.content for t in added if t.content in named or t.content in template]
        )

    def mark(self, messages: list[Message]) -> list[Message] | None:
        """Messages with marks around control tokens, for `sanitize_control_tokens`; None: they have none."""
        patterns = [self._special if one.get("role") == "assistant" else self._all for one in messages]
        marked = list(zip(messages, patterns, strict=True))
        if not any(pattern.search(text) for message, pattern in marked for text in _texts(message)):
            return None  # marking would take private characters out of any text
        return [self._mark(message, pattern) for message, pattern in marked]


def _any_of(tokens: list[str]) -> re.Pattern[str]:
    longest_first = sorted(set(tokens), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")  # (?!) matches nothing


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(one)
