"""A row's prompt: text, messages or a template, through the chat template, as token ids that fit."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from orthrus_core.errors import RequestError
from pipelines.generate.config.prompt import PromptConfig
from pipelines.generate.prompt.chat_template import ChatTemplate
from pipelines.generate.prompt.content import Content, ContentReader
from pipelines.generate.prompt.control_tokens import ControlTokens
from pipelines.generate.prompt.encoder import PromptEncoder
from pipelines.generate.prompt.messages import Message
from pipelines.generate.prompt.template_process import TemplateProcess

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Prompt:
    """A prompt for the engine.

    Attributes:
        truncated_tokens: how many fewer it has than the row's whole prompt.
        prefill: the beginning of the answer, at its end.
        content: what it is made of; None: not asked for.
    """

    ids: list[int]
    truncated_tokens: int = 0
    prefill: str = ""
    content: Content | None = None


class LongPromptError(RequestError):
    """A prompt that does not fit; `prompt_tokens` is how many it has."""

    def __init__(self, message: str, prompt_tokens: int):
        super().__init__(message)
        self.prompt_tokens = prompt_tokens


class PromptRenderer:
    """Turns rows into token ids; one for each process."""

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        prompt: PromptConfig,
        max_context: int,
        chat_process: TemplateProcess | None = None,
    ):
        """Check that prompt and tokenizer fit together.

        Args:
            chat_process: fills chat templates; None: one of its own.
        Raises:
            ConfigError: chat is asked for and the tokenizer has no chat template.
        """
        self._tokenizer = tokenizer
        self._prompt = prompt
        self._max_context = max_context
        self._encoder = PromptEncoder(tokenizer)
        self._chat = ChatTemplate(tokenizer, prompt, chat_process) if prompt.chat else None
        self._control: ControlTokens | None = None
        if prompt.keeps_text:
            self._control = ControlTokens(tokenizer, self._chat.source if self._chat else "")
        self._reader = ContentReader(prompt)

    def prompt(self, row: Mapping[str, Any], max_new_tokens: int) -> Prompt:
        """A row's prompt, cut where it is too long and the config says so.

        Args:
            max_new_tokens: the row's; a cut prompt leaves room for them unless input.prompt.room says other.
        Raises:
            RequestError: null, of the wrong type, a template that fails on this row, or too long.
        """
        try:
            return self._prompt_of(self._reader.read(row), max_new_tokens)
        except RecursionError:
            raise RequestError("prompt has values that are nested too deeply") from None

    def next_prompt(self, prompt: Prompt, answer: str, max_new_tokens: int) -> Prompt:
        """The prompt of a conversation's next turn: all before it, the answer, and what the user says then.

        Args:
            prompt: of the turn before, with its content.
            answer: the completion, without the prefill.
        Raises:
            RequestError: as of `prompt`.
        """
        content = prompt.content
        assert content is not None
        assert not isinstance(content.said, str)
        assert self._chat is not None
        said = list(content.said)
        begun = said.pop() if self._chat.continues(said) else {"role": "assistant"}
        said.append({**begun, "content": prompt.prefill + answer})
        said.append({"role": "user", "content": content.turns[0]})
        return self._prompt_of(replace(content, said=said, turns=content.turns[1:]), max_new_tokens)

    def text(self, row: Mapping[str, Any]) -> str:
        """The whole text of a row, before it is tokenized or cut.

        Raises:
            RequestError: null, of the wrong type, or a template that fails on this row.
        """
        return self._text(self._reader.read(row))

    def ids(self, content: Content) -> list[int]:
        """Token ids of all that a row says.

        Raises:
            RequestError: a chat template that fails, un-encodable text, no tokens, or too long for certain.
        """
        text, is_marked = self._marked_text(content)
        if self._prompt.overlong == "error":
            self._encoder.check_length(text, self._max_context)
        specials = isinstance(content.said, str) and self._prompt.add_special_tokens
        ids = self._encoder.ids(text, specials=specials, is_marked=is_marked)
        if not ids:
            raise RequestError("prompt has no tokens")
        return ids

    def decode(self, ids: list[int]) -> str:
        """Token ids as text, special tokens shown."""
        return str(self._tokenizer.decode(ids, clean_up_tokenization_spaces=False))

    def _prompt_of(self, content: Content, max_new_tokens: int) -> Prompt:
        fitting = self._fitting(content, max_new_tokens)
        return replace(fitting, prefill=self._continued(content) + content.prefill, content=content)

    def _fitting(self, content: Content, max_new_tokens: int) -> Prompt:
        if self._prompt.overlong == "error":
            ids = self.ids(content)
            self._check_room(len(ids))
            return Prompt(ids)
        limit = self._limit(max_new_tokens)
        if isinstance(content.said, str):
            return self._cut_text(content, limit)
        return self._cut_messages(content, content.said, limit)

    def _continued(self, content: Content) -> str:
        """The last message's text, where the completion goes on with it."""
        if self._chat is None or isinstance(content.said, str) or not self._chat.continues(content.said):
            return ""
        return str(content.said[-1]["content"] or "")

    def _marked_text(self, content: Content) -> tuple[str, bool]:
        """The whole text, and whether marks keep control tokens in it text."""
        marked = self._control.mark(content) if self._control else None
        if self._control is None or marked is None:
            return self._text(content), False
        text = self._text(marked)
        self._control.check_marks(text)
        return text, True

    def _text(self, content: Content) -> str:
        if isinstance(content.said, str):
            return content.said
        assert self._chat is not None
        return self._chat.render(content.said, content.args) + content.prefill

    def _check_room(self, count: int) -> None:
        room = self._prompt.room or 1
        if count + room > self._max_context:
            more = f", input.prompt.room {room}" if room > 1 else ""
            fault = f"prompt has {count} tokens, decode.max_context is {self._max_context}{more}"
            raise LongPromptError(fault, count)

    def _limit(self, max_new_tokens: int) -> int:
        """Most tokens of a prompt."""
        room = self._prompt.room or max(1, max_new_tokens)  # the engine runs no prompt that fills all of it
        if room >= self._max_context:
            raise RequestError(
                f"no room for a prompt: {room} tokens are kept free for the completion, "
                f"decode.max_context is {self._max_context}; set input.prompt.room"
            )
        return self._max_context - room

    def _cut_text(self, content: Content, limit: int) -> Prompt:
        """Cut ids, but for the special tokens that the tokenizer puts around every text."""
        ids = self.ids(content)
        excess = len(ids) - limit
        if excess <= 0:
            return Prompt(ids)
        own_text, is_marked = self._marked_text(content)
        own = self._encoder.ids(own_text, specials=False, is_marked=is_marked)
        before = next((i for i in range(len(ids) - len(own) + 1) if ids[i : i + len(own)] == own), None)
        if before is None or excess >= len(own):
            own, before = ids, 0
        after = ids[before + len(own) :]
        kept = own[excess:] if self._prompt.overlong == "truncate_left" else own[: len(own) - excess]
        return Prompt(ids[:before] + kept + after, excess)

    def _cut_messages(self, content: Content, messages: list[Message], limit: int) -> Prompt:
        """Cut what users say, by whole tokens, until the rendered prompt fits."""
        whole = len(ids := self.ids(content))
        if whole <= limit:
            return Prompt(ids)
        users = [i for i, message in enumerate(messages) if message["role"] == "user"]
        bounds = {i: self._token_bounds(messages[i]["content"]) for i in users}
        available, cut = sum(len(bounds[i]) - 1 for i in users), 0
        while len(ids) > limit and cut < available:
            cut = min(available, cut + len(ids) - limit)
            ids = self.ids(replace(content, said=self._without(messages, bounds, cut)))
        if len(ids) > limit:
            raise LongPromptError(
                f"prompt has {whole} tokens, {len(ids)} without what users say, and {limit} fit into "
                f"decode.max_context {self._max_context} beside the completion",
                whole,
            )
        return Prompt(ids, whole - len(ids))

    def _without(self, messages: list[Message], bounds: Mapping[int, list[int]], cut: int) -> list[Message]:
        """Messages without `cut` tokens of users: the first ones, or the last ones."""
        messages = list(messages)
        from_left = self._prompt.overlong == "truncate_left"
        for i in sorted(bounds, reverse=not from_left):
            count = min(cut, len(bounds[i]) - 1)
            cut -= count
            text = messages[i]["content"]
            kept = text[bounds[i][count] :] if from_left else text[: bounds[i][len(bounds[i]) - 1 - count]]
            messages[i] = {**messages[i], "content": kept}
        return messages

    def _token_bounds(self, text: str) -> list[int]:
        """Where tokens begin in a text, in characters, and where it ends; non-decreasing."""
        if not self._tokenizer.is_fast:
            return list(range(len(text) + 1))
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return [start for start, _ in encoded["offset_mapping"]] + [len(text)]
