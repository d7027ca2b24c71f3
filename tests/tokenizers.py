"""A tokenizer small enough to see through."""

from collections.abc import Sequence

from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast


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


def fast_tokenizer(
    pieces: Sequence[str] = (), *, special: Sequence[str] = ("<eos>", "<mask>"), style: str = "qwen"
) -> PreTrainedTokenizerFast:
    """A tokenizer of printable ASCII and further pieces, made of the parts of real ones.

    Ids 0 to 94 are the characters from space to ~, then come the pieces, then the special tokens, the first
    of which is the EOS.

    Args:
        style: qwen: byte-level BPE; llama: sentencepiece's, with "▁" for a space and byte tokens behind the
            pieces.
    """
    texts = [*(chr(code) for code in range(32, 127)), *pieces]
    as_bytes = ByteLevel(add_prefix_space=False, use_regex=False)
    if style == "llama":
        vocab = {text.replace(" ", "▁"): place for place, text in enumerate(texts)}
        vocab |= {f"<0x{byte:02X}>": len(vocab) + byte for byte in range(256)}
        tokenizer = Tokenizer(BPE(vocab=vocab, merges=[], byte_fallback=True))
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
    else:
        vocab = {as_bytes.pre_tokenize_str(text)[0][0]: place for place, text in enumerate(texts)}
        tokenizer = Tokenizer(BPE(vocab=vocab, merges=[]))
        tokenizer.pre_tokenizer = as_bytes
        tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=special[0] if special else None)
