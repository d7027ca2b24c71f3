"""Prompt texts to token ids."""

from typing import TYPE_CHECKING

from orthrus_core.errors import RequestError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHORT_CHARS = 1_000_000  # tokenized in a second; also, runs of unknown characters may become one token


class PromptEncoder:
    """Tokenizes; control tokens that were marked come out as text."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase"):
        self._tokenizer = tokenizer

    def ids(self, text: str, *, specials: bool, is_marked: bool) -> list[int]:
        """Token ids of a text.

        Args:
            specials: with the special tokens that the tokenizer puts around every text.
            is_marked: `ControlTokens` has marked it.
        Raises:
            RequestError: text that cannot be encoded.
        """
        try:
            if not is_marked:
                return self._tokenizer.encode(text, add_special_tokens=specials)
            return self._marked_ids(text, specials=specials)
        except (UnicodeEncodeError, TypeError):
            raise RequestError("prompt has text that cannot be encoded as UTF-8") from None

    def check_length(self, text: str, max_context: int) -> None:
        """Refuse a text that is too long for certain, without the minutes that tokenizing it takes.

        Raises:
            RequestError: it has more characters than the longest tokens in `max_context` places.
        """
        if len(text) <= SHORT_CHARS:
            return
        most = max_context * max(map(len, self._tokenizer.get_vocab()))
        if len(text) > most:
            raise RequestError(
                f"prompt has {len(text)} characters, and the {max_context} tokens of decode.max_context "
                f"hold at most {most}"
            )

    def _marked_ids(self, text: str, *, specials: bool) -> list[int]:
        try:
            own = self._tokenizer(text, add_special_tokens=False, sanitize_control_tokens=True)["input_ids"]
        except ValueError as error:
            raise RequestError(f"{error}; see input.prompt.special_tokens") from None
        if not specials:
            return own
        framed, plain = (self._tokenizer.encode("a", add_special_tokens=one) for one in (True, False))
        start = next((i for i in range(len(framed)) if framed[i : i + len(plain)] == plain), 0)
        return framed[:start] + own + framed[start + len(plain) :]
