"""What a request makes of the logits by the tokens before each place: penalties, biases, forbidden tokens."""

import functools
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from orthrus_core.choosers.masks import bits_of
from orthrus_core.errors import RequestError
from orthrus_core.request import SamplingParams

KEPT_RULES = 256  # of requests with the same lists; the least recently used go first
BadWord = tuple[int, ...]


@dataclass(frozen=True)
class EditRules:
    """What requests with the same lists share.

    Attributes:
        biases: (2, M) float64, token ids and what is added to their logits.
        single: (F,) int64, tokens that never come.
        words: of several tokens that cannot come, by their last token but one.
        allowed: (W,) int32, a bit per token, see `masks`; None: all may come.
    """

    biases: np.ndarray
    single: np.ndarray
    words: dict[int, list[BadWord]]
    allowed: np.ndarray | None


class BlockEdits(NamedTuple):
    """The edits of R rows that follow one another, M tokens with a change.

    Attributes:
        ids: (M,) int64, each token once.
        biases: (M,) float32, added first.
        scales: (R, M) float32, the repetition penalty of tokens that were there, 1 for others.
        frequency, presence: (R, M) float32, subtracted last, one after the other.
        forbidden: of each row.
    """

    ids: np.ndarray
    biases: np.ndarray
    scales: np.ndarray
    frequency: np.ndarray
    presence: np.ndarray
    forbidden: list[np.ndarray]


class EditState:
    """The tokens of one sequence as its edits see them. It follows the emitted ones; drafts leave no trace.

    Attributes:
        rules: of the request.
    """

    def __init__(self, params: SamplingParams, rules: EditRules, stop_ids: Collection[int]):
        """Args: stop_ids are the tokens that end the completion."""
        self.rules = rules
        self._params = params
        self._stop_ids = np.array(sorted(stop_ids), dtype=np.int64)
        M = rules.biases.shape[1]
        self._table = np.zeros((4, max(64, 2 * M)))  # a token's id, bias, whether it is penalised, its count
        self._table[:2, :M] = rules.biases
        self._places = {int(token_id): place for place, token_id in enumerate(rules.biases[0])}
        self._num_followed = 0

    def block(
        self, token_ids: Sequence[int], num_prompt: int, draft_ids: Sequence[int], count: int
    ) -> BlockEdits:
        """Return the edits of the last token's row and of those behind it, one for each draft.

        Args:
            token_ids: of the sequence so far, no fewer than in the call before.
            num_prompt: how many of them are the prompt.
            draft_ids: the R - 1 tokens that follow.
            count: R.
        """
        self._follow(token_ids, num_prompt)
        drafts = draft_ids
        M = len(self._places)
        places = [self._place(token_id) for token_id in drafts] if self._params.has_penalties else []
        table = self._table[:, : len(self._places)]
        for token_id in set(drafts):  # they are known in this block's rows alone
            if self._places.get(token_id, -1) >= M:
                del self._places[token_id]
        seen, counts = (np.tile(line, (count, 1)) for line in table[2:])
        for row, place in enumerate(places, start=1):
            seen[row:, place] = 1
            counts[row:, place] += 1
        params = self._params
        return BlockEdits(
            table[0].astype(np.int64),
            table[1].astype(np.float32),
            np.where(seen, np.float32(params.repetition_penalty), np.float32(1)),
            np.float32(params.frequency_penalty) * counts.astype(np.float32),
            np.float32(params.presence_penalty) * (counts > 0),
            list(self._forbidden(token_ids, num_prompt, drafts, count)),
        )

    def proposals(self, token_ids: Sequence[int], num_prompt: int, count: int) -> BlockEdits:
        """Return the edits of R rows that propose what follows: all but penalties, see `Edited`."""
        ids, biases = self.rules.biases
        ones = np.ones((count, len(ids)), dtype=np.float32)
        forbidden = list(self._forbidden(token_ids, num_prompt, (), count))
        zeros = np.zeros_like(ones)
        return BlockEdits(ids.astype(np.int64), biases.astype(np.float32), ones, zeros, zeros, forbidden)

    @property
    def edits_proposals(self) -> bool:
        """Whether there is more than penalties."""
        params = self._params
        return bool(params.min_tokens or params.logit_bias or params.bad_words or params.allowed_token_ids)

    def _follow(self, token_ids: Sequence[int], num_prompt: int) -> None:
        """Take in the tokens that are new since the last call."""
        if not self._params.has_penalties:
            return
        repeats = self._params.repetition_penalty != 1.0
        first = self._num_followed if repeats else max(self._num_followed, num_prompt)
        for position in range(first, len(token_ids)):
            place = self._place(token_ids[position])
            self._table[2, place] = 1
            self._table[3, place] += position >= num_prompt
        self._num_followed = len(token_ids)

    def _place(self, token_id: int) -> int:
        place = self._places.setdefault(token_id, len(self._places))
        if place == self._table.shape[1]:
            self._table = np.concatenate([self._table, np.zeros_like(self._table)], axis=1)
        self._table[0, place] = token_id
        return place

    def _forbidden(
        self, token_ids: Sequence[int], num_prompt: int, drafts: Sequence[int], count: int
    ) -> Iterable[np.ndarray]:
        """Give the tokens that cannot follow each row."""
        words, single = self.rules.words, self.rules.single
        longest = max((len(word) for several in words.values() for word in several), default=1)
        tail = [*token_ids[max(0, len(token_ids) - longest + 1) :], *drafts] if words else []
        num_known = len(tail) - len(drafts)
        for row in range(count):
            parts = [single]
            if len(token_ids) - num_prompt + row < self._params.min_tokens:
                parts.append(self._stop_ids)
            if words and row <= len(drafts):
                before = tuple(tail[: num_known + row])
                ends = [w[-1] for w in words.get(before[-1], ()) if before[1 - len(w) :] == w[:-1]]
                parts.append(np.array(ends, dtype=np.int64))
            yield np.concatenate(parts)


class EditCompiler:
    """Makes the edit states of one engine's requests."""

    def __init__(self, tokenizer: Any, *, vocab_size: int):
        """Args:
        tokenizer: encodes bad words that are texts; None, or one that cannot: those are refused.
        vocab_size: V of the model.
        """
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._rules = functools.lru_cache(KEPT_RULES)(self._new_rules)

    def new_state(self, params: SamplingParams, stop_ids: Collection[int]) -> EditState | None:
        """Return the edits of a request at its beginning; None if it has none.

        Args:
            stop_ids: tokens that end the completion.
        Raises:
            RequestError: ids beyond the vocabulary, texts without a tokenizer, or rules that may leave no
                token.
        """
        if not params.edits_logits:
            return None
        ends = frozenset(stop_ids) if params.min_tokens else frozenset()
        rules = self._rules(params.logit_bias, params.bad_words, params.allowed_token_ids, ends)
        return EditState(params, rules, stop_ids)

    def _new_rules(
        self,
        biases: tuple[tuple[int, float], ...],
        bad_words: tuple[str | BadWord, ...],
        allowed: tuple[int, ...] | None,
        ends: frozenset[int],
    ) -> EditRules:
        """Args: ends are the ids that min_tokens forbids at first."""
        words = {ids for word in bad_words for ids in self._spellings(word)}
        self._check_ids("logit_bias", (token_id for token_id, _ in biases))
        self._check_ids("bad_words", (token_id for word in words for token_id in word))
        self._check_ids("allowed_token_ids", allowed or ())
        candidates = range(self._vocab_size) if allowed is None else allowed
        if ends.union(word[-1] for word in words).issuperset(candidates):
            raise RequestError(
                "allowed_token_ids, bad_words and min_tokens together may leave no token to choose"
            )
        by_last_but_one = defaultdict(list)
        for word in sorted(words):
            if len(word) > 1:
                by_last_but_one[word[-2]].append(word)
        return EditRules(
            np.array(biases, dtype=np.float64).reshape(-1, 2).T,
            np.array(sorted(word[0] for word in words if len(word) == 1), dtype=np.int64),
            dict(by_last_but_one),
            None if allowed is None else bits_of(allowed, self._vocab_size),
        )

    def _spellings(self, word: str | BadWord) -> list[BadWord]:
        """Return the token ids of a bad word: of a text, with and without a space before it."""
        if not isinstance(word, str):
            return [word]
        if not hasattr(self._tokenizer, "encode"):
            raise RequestError(
                f"bad_words has the text {word!r} but the engine has no tokenizer to spell it: pass "
                "Engine(model, config, tokenizer=...), or give token ids"
            )
        texts = (word.lstrip(), " " + word.lstrip())
        spelled = {tuple(self._tokenizer.encode(text, add_special_tokens=False)) for text in texts}
        return [ids for ids in spelled if ids]

    def _check_ids(self, option: str, token_ids: Iterable[int]) -> None:
        if beyond := sorted({one for one in token_ids if one >= self._vocab_size})[:10]:
            raise RequestError(
                f"{option} has ids {beyond}, the vocabulary has ids 0 to {self._vocab_size - 1}"
            )
