"""What a GGUF file says of its model and its tokenizer, read and checked without its weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orthrus_core.errors import ConfigError

MAGIC = b"GGUF"
CONTROL, USER_DEFINED = 3, 4  # token types that are found in text before it is split
BYTE_LEVEL = "gpt2"  # the kind of tokenizer that depends on `tokenizer.ggml.pre`


@dataclass(frozen=True)
class GgufFile:
    """A file whose header was read.

    Attributes:
        num_weights: of all its tensors.
        tokens: the vocabulary as the file spells it.
        whole_ids: ids of tokens that never come in pieces: control tokens and the user's.
        pre_tokenizer: how text is split before a byte-level tokenizer merges it; None with other tokenizers.
        eos_ids: the end of a text first, then the end of a turn where that is another token.
    """

    path: Path
    architecture: str
    num_weights: int
    tokens: list[str]
    whole_ids: list[int]
    pre_tokenizer: str | None
    eos_ids: list[int]
    pad_id: int


def read_gguf(path: Path) -> GgufFile:
    """Read the header of a GGUF file.

    Raises:
        ConfigError: it is none, has no tokenizer, no EOS, or more tokens than its table has rows.
    """
    reader = _reader(path)

    def field(name: str, default: Any = None) -> Any:
        return reader.fields[name].contents() if name in reader.fields else default

    tokens = field("tokenizer.ggml.tokens")
    if not tokens:
        raise ConfigError(f"{path}: holds no tokenizer (tokenizer.ggml.tokens)")
    eos = field("tokenizer.ggml.eos_token_id")
    if eos is None:
        raise ConfigError(
            f"{path}: its tokenizer has no EOS (tokenizer.ggml.eos_token_id), so no text would end; "
            "convert the model anew with its tokenizer_config.json beside it"
        )
    rows = next(
        (int(tensor.shape[-1]) for tensor in reader.tensors if tensor.name == "token_embd.weight"), None
    )
    if rows is not None and len(tokens) > rows:
        raise ConfigError(
            f"{path}: {len(tokens)} tokens in the vocabulary, {rows} rows in the embedding table"
        )
    types = field("tokenizer.ggml.token_type", [])
    kind = field("tokenizer.ggml.model")
    return GgufFile(
        path=path,
        architecture=field("general.architecture", "unknown"),
        num_weights=sum(int(tensor.n_elements) for tensor in reader.tensors),
        tokens=tokens,
        whole_ids=[id for id, type in enumerate(types) if type in (CONTROL, USER_DEFINED)],
        pre_tokenizer=field("tokenizer.ggml.pre", "none") if kind == BYTE_LEVEL else None,
        eos_ids=list(dict.fromkeys([eos, field("tokenizer.ggml.eot_token_id", eos)])),
        pad_id=field("tokenizer.ggml.padding_token_id", eos),
    )


def _reader(path: Path) -> Any:
    try:
        import accelerate  # noqa: F401  transformers wants it for any GGUF
        from gguf import GGUFReader
    except ImportError as error:
        raise ConfigError(
            f"reading GGUF needs the package {error.name}: pip install 'orthrus-bulk[real]'"
        ) from None
    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise ConfigError(f"{path}: no GGUF file")
        return GGUFReader(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, IndexError, KeyError) as error:  # of a file that ends early, for one
        raise ConfigError(f"{path}: no whole GGUF file: {' '.join(str(error).split()):.200}") from error
