"""A tokenizer small enough to see through."""

from collections.abc import Sequence


class ByteTokenizer:
    """Token i is the i-th piece of bytes; text is UTF-8, with the replacement character where it is not.

    Attributes:
        longest_call: most tokens that `decode` ever got.
    """

    def __init__(self, pieces: Sequence[bytes], special_ids: Sequence[int] = ()):
        self._pieces = pieces
        self._special_ids = special_ids
        self.longest_call = 0

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        self.longest_call = max(self.longest_call, len(token_ids))
        shown = [i for i in token_ids if not (skip_special_tokens and i in self._special_ids)]
        return b"".join(self._pieces[i] for i in shown).decode("utf-8", errors="replace")

    @classmethod
    def of_letters(cls, vocab_size: int) -> "ByteTokenizer":
        """One printable letter per token, so that text shows what the model writes."""
        return cls([chr(33 + i).encode() for i in range(vocab_size)])
