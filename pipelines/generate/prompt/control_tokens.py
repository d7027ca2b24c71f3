"""Control tokens in what rows say: kept as text, so that no row can end its turn or open another."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from orthrus_core.errors import ConfigError, RequestError
from pipelines.generate.prompt.content import Content

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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

    def mark(self, content: Content) -> Content | None:
        """Content with marks around control tokens, for `sanitize_control_tokens`; None: it has none.

        Raises:
            RequestError: a key of an object holds one, and keys cannot be marked.
        """
        is_text = isinstance(content.said, str)
        said = [content.said] if isinstance(content.said, str) else content.said
        parts: list[tuple[Any, re.Pattern[str]]] = [(one, self._pattern(one)) for one in said]
        parts += [(content.args, self._all), (content.prefill, self._special)]
        if not any(pattern.search(text) for part, pattern in parts for text in _texts(part)):
            return None  # marking would take private characters out of any text
        for key in (key for part, _ in parts for key in _keys(part)):
            if token := self._all.search(str(key)):
                raise RequestError(f"key {key!r:.60} of an object holds the control token {token[0]}")
        *marked, args, prefill = [self._mark(part, pattern) for part, pattern in parts]
        return Content(marked[0] if is_text else marked, args, prefill)

    def check_marks(self, text: str) -> None:
        """Refuse a rendered text in which marks are no marks any more.

        Raises:
            RequestError: the template wrote values as Python or ASCII JSON does, which spells marks out.
        """
        mark = self._mark("a", re.compile("a"))[0]
        if any(spelt[1:-1] in text for spelt in (ascii(mark), json.dumps(mark))):
            raise RequestError(
                "chat template spells out characters of values, and one holds a control token; "
                "see input.prompt.special_tokens"
            )

    def _pattern(self, one: Any) -> re.Pattern[str]:
        by_model = isinstance(one, dict) and one["role"] == "assistant"
        return self._special if by_model else self._all


def _any_of(tokens: list[str]) -> re.Pattern[str]:
    longest_first = sorted(set(tokens), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")  # (?!) matches nothing


def _texts(value: Any) -> Iterator[str]:
    """Every text within a value, keys of objects too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _keys(value)
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield from map(str, value)
    if isinstance(value, Mapping | list | tuple):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _keys(one)
