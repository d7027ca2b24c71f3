"""Text that an engine saw, and what followed each run of tokens in it when it was seen last."""

from typing import NamedTuple

import numpy as np

from orthrus_core.attention.rows import count_up

LENGTHS = np.array([1, 2, 3, 5, 8, 16])  # tokens of a run that is looked for; ascending
WINDOW = int(LENGTHS[-1])
ENTRIES_PER_TOKEN = 8  # of the table, rounded up: 8 bytes each, the newest takes an older one's place
FIRST_TOKENS = 4096  # that the table has room for at first; it grows with the log: a start is free
NO_TOKEN = -1
EVERYWHERE = 0  # the scope of all text; others are numbers of texts

_MULTIPLIERS = np.random.default_rng(0).integers(2**63, size=WINDOW, dtype=np.uint64) << 1 | 1
_SALTS = np.random.default_rng(1).integers(2**63, size=len(LENGTHS), dtype=np.uint64)
_STIR = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)
_LOW = np.uint64(2**32 - 1)


class Ends(NamedTuple):
    """Where N texts end.

    Attributes:
        texts: (N,) int64, numbers of the texts, at least 1.
        places: (N,) int64, of the last token in the log; -1: there is none.
        windows: (N, WINDOW) int64, the last tokens, NO_TOKEN before the beginning.
    """

    texts: np.ndarray
    places: np.ndarray
    windows: np.ndarray

    @classmethod
    def empty(cls, count: int) -> "Ends":
        """Return the ends of `count` texts without a token and a number."""
        nowhere = np.full(count, -1)
        return cls(nowhere, nowhere.copy(), np.full((count, WINDOW), NO_TOKEN))


class TextIndex:
    """A log of tokens, the oldest out, and a table from hashes of runs to the places behind them.

    A run is looked for in a scope: one text, a group of texts, or everything. Each token of the log knows
    where its text goes on. Neither hashes nor links are exact, so what comes out may be wrong: it is a
    proposal. All of it is numpy: the hashes of all tokens of a step are made at once.

    Attributes:
        num_seen: tokens appended so far.
    """

    def __init__(self, num_tokens: int):
        """Args: num_tokens is the most that the log holds, at least 1."""
        self._size = num_tokens
        self._tokens = np.zeros(num_tokens, dtype=np.int32)
        self._before = np.zeros(num_tokens, dtype=np.int32)  # the token before each
        self._next = np.zeros(num_tokens, dtype=np.int32)  # place where the text goes on, -1: nowhere
        self._texts = np.zeros(num_tokens, dtype=np.int32)
        self._entries = np.zeros(2 ** _bits_for(min(num_tokens, FIRST_TOKENS)), dtype=np.uint64)
        self.num_seen = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the log and of the table as it is now."""
        arrays = (self._tokens, self._before, self._next, self._texts, self._entries)
        return sum(array.nbytes for array in arrays)

    def append(self, ends: Ends, counts: np.ndarray, token_ids: np.ndarray, scopes: np.ndarray) -> Ends:
        """Let N texts go on.

        Args:
            ends: of the texts so far.
            counts: (N,) int64, new tokens of each, at least 1.
            token_ids: (E,) int64, of one text after the other.
            scopes: (N, C) int64, in which the runs before the new tokens are found.
        Returns:
            Their ends now.
        """
        E = len(token_ids)
        places = (self.num_seen + np.arange(E)) % self._size
        self.num_seen += E
        self._grow()
        lasts = np.cumsum(counts) - 1
        firsts = lasts - counts + 1
        first_of_window = firsts + WINDOW * np.arange(len(counts))
        padded = np.empty(E + WINDOW * len(counts), dtype=np.int64)
        padded[first_of_window[:, None] + np.arange(WINDOW)] = ends.windows
        own = np.repeat(first_of_window + WINDOW, counts) + count_up(counts)
        padded[own] = token_ids
        windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)
        self._write(ends, firsts, places, token_ids, padded[own - 1], np.repeat(ends.texts, counts))
        keys = _keys(windows[own - WINDOW], np.repeat(scopes, counts, axis=0))
        self._entries[keys >> self._shift] = keys << _HALF | places.astype(np.uint64)[:, None, None]
        return Ends(ends.texts, places[lasts], windows[own[lasts] - WINDOW + 1])

    @property
    def _shift(self) -> np.uint64:
        """Bits of a key beside those that say its place in the table."""
        return np.uint64(65 - len(self._entries).bit_length())

    def _grow(self) -> None:
        """Make room for the text. An entry goes to all places that its key may have: it has half of it."""
        bits = _bits_for(min(self.num_seen, self._size))
        if 2**bits > len(self._entries):
            self._entries = np.repeat(self._entries, 2**bits // len(self._entries))

    def _write(
        self,
        ends: Ends,
        firsts: np.ndarray,
        places: np.ndarray,
        token_ids: np.ndarray,
        before: np.ndarray,
        texts: np.ndarray,
    ) -> None:
        """Put tokens into the log and link them."""
        self._tokens[places] = token_ids
        self._before[places] = before
        self._texts[places] = texts
        self._next[places[:-1]] = places[1:]
        self._next[places[-1:]] = -1
        self._next[places[firsts[1:] - 1]] = -1
        is_linked = ends.places >= 0
        self._next[ends.places[is_linked]] = places[firsts[is_linked]]

    def find(self, ends: Ends, scopes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Look for what followed the last tokens of N texts.

        Args:
            ends: of the texts.
            scopes: (N, C) int64, to look in.
        Returns:
            (N, C, lengths) int64 places of the tokens that followed, -1 where a run was not found; and
            (N, C, lengths) numbers of the texts that they are in.
        """
        keys = _keys(ends.windows, scopes)
        entries = self._entries[keys >> self._shift]
        places = (entries & _LOW).astype(np.int64)
        is_found = entries >> _HALF == keys & _LOW
        is_found &= self._before[places] == ends.windows[:, -1, None, None]  # else it was written over
        is_found &= ends.windows[:, None, WINDOW - LENGTHS] != NO_TOKEN
        return np.where(is_found, places, -1), self._texts[places]

    def follow(self, places: np.ndarray, count: int, *, repeats: np.ndarray) -> np.ndarray:
        """Return (N, count) int64, the tokens from places (N,) on, NO_TOKEN behind the end.

        Args:
            places: in the log, -1 for nothing.
            repeats: (N,) bool, whether the text begins again at the place when it ends: what follows the end
                of a text that repeats itself.
        """
        token_ids = np.empty((count, len(places)), dtype=np.int64)
        again, now = np.where(repeats, places, -1), places
        for line in token_ids:
            line[:] = np.where(now < 0, NO_TOKEN, self._tokens[now])
            now = np.where(now < 0, now, self._next[now])
            now = np.where(now < 0, again, now)
        return token_ids.T


def _bits_for(num_tokens: int) -> int:
    """Return the bits that number the entries of a table for so many tokens."""
    return (num_tokens * ENTRIES_PER_TOKEN - 1).bit_length()


def _keys(windows: np.ndarray, scopes: np.ndarray) -> np.ndarray:
    """Return (E, C, lengths) uint64, the hashes of the runs that end windows (E, WINDOW), by scope (E, C)."""
    terms = (windows[:, ::-1] + 1).astype(np.uint64) * _MULTIPLIERS
    runs = np.cumsum(terms, axis=1)[:, LENGTHS - 1] + _SALTS
    keys = runs[:, None] + (scopes.astype(np.uint64) * _STIR)[:, :, None]
    for _ in range(2):
        keys = (keys ^ keys >> np.uint64(29)) * _STIR
    return keys ^ keys >> _HALF
