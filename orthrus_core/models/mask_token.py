"""The token that stands in a block for what is to be drafted: one that no text holds."""

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

RESERVED = re.compile(r"[<\[]\|?\w*(reserved|unused|extra)\w*\|?[>\]]", re.IGNORECASE)


@dataclass(frozen=True)
class MaskToken:
    """A choice.

    Attributes:
        id: the vocabulary's size where the embedding table gets one row more.
        origin: what it is, for people.
    """

    id: int
    origin: str

    def __str__(self) -> str:
        return f"{self.id} ({self.origin})"


def choose_mask_token(tokenizer: Any | None, vocab_size: int) -> MaskToken:
    """Choose a token that no text holds.

    Args:
        tokenizer: of transformers; None: nobody knows which ids are free, so that the table gets a new row.
        vocab_size: V, rows of the backbone's embedding table.
    Returns:
        The tokenizer's own mask token; else an id that it does not use; else the last token that it holds in
        reserve; else a row more.
    """
    if tokenizer is not None:
        vocab = tokenizer.get_vocab()
        mask = tokenizer.mask_token_id
        if mask is not None and mask < vocab_size and mask != tokenizer.eos_token_id:
            return MaskToken(mask, "the tokenizer's mask token")
        used = set(vocab.values())
        unused = next((token_id for token_id in range(vocab_size) if token_id not in used), None)
        if unused is not None:
            return MaskToken(unused, "an id that the tokenizer does not use")
        if reserved := _reserved_tokens(tokenizer, vocab):
            return MaskToken(vocab[reserved[-1]], f"the reserved token {reserved[-1]}")
    return MaskToken(vocab_size, "a new row of the embedding table")


def _reserved_tokens(tokenizer: Any, vocab: dict[str, int]) -> list[str]:
    """Tokens held in reserve which have no duty, by id."""
    on_duty = set(tokenizer.special_tokens_map.values())
    found = [token for token in vocab if RESERVED.fullmatch(token) and token not in on_duty]
    return sorted(found, key=vocab.__getitem__)


def with_mask_row(table: Tensor) -> Tensor:
    """Return a (V, D) embedding table or output matrix with the mean of its rows as row V.

    The logit of that token is the mean of all others: greedy decoding never takes it, and its probability is
    below 1 / V.
    """
    mean = table.mean(dim=0, keepdim=True, dtype=torch.float32)
    return torch.cat([table, mean.to(table.dtype)])
