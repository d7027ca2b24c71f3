"""A tokenizer small enough to see through."""

from collections.abc import Sequence

from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE, Unigram, WordPiece
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


class BareTokenizer:
    """A tokenizer of the tokenizers library, with a decoder of one of the usual styles."""

    def __init__(self, style: str, pieces: Sequence[str]):
        """Args:
        style: byte-level, byte-fallback, unigram or word-piece.
        pieces: texts of tokens, a space before those that begin a word. The first two styles have all bytes
            as tokens too.
        """
        has_bytes = style.startswith("byte")
        texts = [_as_token(style, piece) for piece in pieces] + (_byte_tokens(style) if has_bytes else [])
        vocab = {text: token_id for token_id, text in enumerate(dict.fromkeys(texts))}
        if style == "unigram":
            model = Unigram([(text, 0.0) for text in vocab], unk_id=0)
            decoder = decoders.Metaspace()
        elif style == "word-piece":
            model, decoder = WordPiece(vocab, unk_token=texts[0]), decoders.WordPiece(cleanup=True)
        elif style == "byte-fallback":
            model = BPE(vocab=vocab, merges=[], byte_fallback=True)
            steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
            decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
        else:
            model, decoder = BPE(vocab=vocab, merges=[]), decoders.ByteLevel()
        self._tokenizer = Tokenizer(model)
        self._tokenizer.decoder = decoder
        self._tokenizer.add_special_tokens(["<end>"])
        self.special_id = len(vocab)
        self.byte_ids = [vocab[text] for text in _byte_tokens(style)] if has_bytes else []
        self.piece_ids = [vocab[text] for text in texts[: len(pieces)]]

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=skip_special_tokens)


def _as_token(style: str, piece: str) -> str:
    if style == "byte-level":
        return ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(piece)[0][0]
    if style == "word-piece":
        return piece[1:] if piece.startswith(" ") else "##" + piece
    return piece.replace(" ", "▁")


def _byte_tokens(style: str) -> list[str]:
    if style == "byte-fallback":
        return [f"<0x{byte:02X}>" for byte in range(256)]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]  # the others have letters from 256 on
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]
