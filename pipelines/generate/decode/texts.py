"""Tokens to the text that is written, and whether the engine has to know it."""

from typing import Any

from orthrus_core.request import GRAMMARS
from pipelines.checkpoint.directory import load_tokenizer
from pipelines.generate.config.sampling import SamplingConfig


def needs_text(sampling: SamplingConfig) -> bool:
    """Whether the engine has to know texts: of stop strings, grammars or bad words."""
    by_column = sampling.columns.given.keys() & {"stop", "bad_words", *GRAMMARS}
    return bool(sampling.stop or sampling.bad_words or sampling.grammar or by_column)


class TextDecoder:
    """Turns tokens into the text that is written, for the engine's stop strings too, and bad words back."""

    def __init__(self, path: str):
        """Args: path is the checkpoint's."""
        self._tokenizer = load_tokenizer(path)

    @property
    def backend_tokenizer(self) -> Any:
        """What the engine reads the vocabulary from, for grammars; None: the tokenizer is a slow one."""
        return getattr(self._tokenizer, "backend_tokenizer", None)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return the tokens of a text."""
        return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens))

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of tokens as the model wrote it."""
        text = self._tokenizer.decode(
            token_ids, skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
        )
        return str(text)
