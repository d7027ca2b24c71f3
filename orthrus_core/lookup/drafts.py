"""Drafts that cost no forward: what followed the last tokens of each sequence where they stood before."""

import itertools
import time
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import numpy as np

from orthrus_core.engine.blocks import Offer
from orthrus_core.engine.sequence import Sequence
from orthrus_core.lookup.index import EVERYWHERE, LENGTHS, NO_TOKEN, Ends, TextIndex
from orthrus_core.lookup.record import CORPUS, OWN, SAMPLE, MatchRecord, kinds_of

LEAST_SURVIVAL = 0.03  # of a draft that is worth a look


@dataclass(slots=True)
class _Text:
    """A sequence whose text is followed.

    Attributes:
        line: in the tables of ends and proposals.
        num_indexed: tokens of the sequence that the index has.
    """

    sequence: Sequence
    line: int
    num_indexed: int


@dataclass(slots=True)
class _Prompt:
    """A prompt that the index has.

    Attributes:
        number: of its text, and of the scope of its completions.
        end: of it.
        seen_at: tokens that the index had seen before it.
    """

    number: int
    end: Ends
    seen_at: int


class LookupDrafts:
    """Proposes from each sequence's own prompt and text, from other samples of its prompt, and from all text.

    Text is taken in when somebody asks for drafts, all of it at once; the prompt of several samples once.
    """

    def __init__(self, *, num_tokens: int, num_slots: int, most_drafts: int):
        """Args: num_tokens is the most text that is kept; most_drafts is L."""
        self._num_tokens = num_tokens
        self._index = TextIndex(num_tokens)
        self._most_drafts = most_drafts
        self._record = MatchRecord(most_drafts)
        self._numbers = itertools.count(1)
        self._prompts: dict[int, _Prompt] = {}
        self._texts: dict[int, _Text] = {}  # by request
        self._left: list[_Text] = []  # sequences that ended, not yet taken in
        self._free_lines = list(range(num_slots))
        self._ends = Ends.empty(num_slots)
        self._groups = np.zeros(num_slots, dtype=np.int64)
        self._kinds = np.zeros(num_slots, dtype=np.int64)
        self._proposals = np.full((num_slots, most_drafts), NO_TOKEN)

    def offer(self, sequences: SequenceOf[Sequence]) -> Offer:
        """Return drafts for decoding sequences, and learn how those of the last time did."""
        started_at = time.perf_counter()
        self._begin([one for one in sequences if one.request_id not in self._texts])
        texts = [self._texts[one.request_id] for one in sequences]
        self._take_in(texts)
        lines = np.array([text.line for text in texts], dtype=np.int64)
        drafts, kinds = self._propose(lines)
        survival = self._record.survival[kinds][:, : drafts.shape[1]] * (drafts >= 0)
        return Offer(drafts, (drafts >= 0).sum(axis=1), survival, time.perf_counter() - started_at)

    def leave(self, sequence: Sequence) -> None:
        """A sequence gives up its slot; its text stays."""
        text = self._texts.pop(sequence.request_id, None)
        if text is not None:
            self._left.append(text)

    def forget_texts(self) -> None:
        """See `Lookup`; how well drafts do is not forgotten."""
        self._take_in([])
        self._index = TextIndex(self._num_tokens)
        self._ends.places[:] = -1
        self._prompts.clear()

    def _begin(self, sequences: SequenceOf[Sequence]) -> None:
        """Follow sequences from the ends of their prompts on."""
        if len(sequences) > len(self._free_lines):
            self._take_in([])
        for sequence, prompt in zip(sequences, self._prompts_of(sequences), strict=True):
            text = _Text(sequence, self._free_lines.pop(), sequence.num_prompt)
            for own, end in zip(self._ends, prompt.end, strict=True):
                own[text.line] = end
            self._ends.texts[text.line] = next(self._numbers)
            self._groups[text.line] = prompt.number
            self._proposals[text.line] = NO_TOKEN
            self._texts[sequence.request_id] = text

    def _prompts_of(self, sequences: SequenceOf[Sequence]) -> list[_Prompt]:
        """Return the prompts of sequences; those not there, or pushed out, are taken in, all at once."""
        keys = [hash(tuple(one.token_ids[: one.num_prompt])) for one in sequences]
        news = {key: one for key, one in zip(keys, sequences, strict=True) if not self._is_kept(key)}
        if news:
            self._prompts = {key: one for key, one in self._prompts.items() if self._is_kept(key)}
            kept = [one.token_ids[: one.num_prompt][-self._num_tokens :] for one in news.values()]
            numbers, seen_at = np.array([next(self._numbers) for _ in news]), self._index.num_seen
            ends = self._index.append(
                Ends.empty(len(news))._replace(texts=numbers),
                np.array([len(token_ids) for token_ids in kept]),
                np.array(list(itertools.chain.from_iterable(kept)), dtype=np.int64),
                np.stack([numbers, np.full_like(numbers, EVERYWHERE)], axis=1),
            )
            for line, (key, number) in enumerate(zip(news, numbers.tolist(), strict=True)):
                self._prompts[key] = _Prompt(number, Ends(*(part[line] for part in ends)), seen_at)
        return [self._prompts[key] for key in keys]

    def _is_kept(self, key: int) -> bool:
        """Whether a prompt was taken in and the index may still have it."""
        known = self._prompts.get(key)
        return known is not None and self._index.num_seen - known.seen_at <= self._num_tokens

    def _take_in(self, texts: SequenceOf[_Text]) -> None:
        """Append what sequences emitted since the last time, of those that left too, and learn from it."""
        news = [(one, one.sequence.token_ids[one.num_indexed :]) for one in (*self._left, *texts)]
        news = [(one, token_ids) for one, token_ids in news if token_ids]
        if news:
            lines = np.array([one.line for one, _ in news])
            counts = np.array([len(token_ids) for _, token_ids in news])
            token_ids = np.array(list(itertools.chain.from_iterable(ids for _, ids in news)), dtype=np.int64)
            self._learn(lines, counts, token_ids)
            ends = Ends(*(part[lines] for part in self._ends))
            scopes = np.stack([ends.texts, self._groups[lines], np.full_like(lines, EVERYWHERE)], axis=1)
            for own, part in zip(
                self._ends, self._index.append(ends, counts, token_ids, scopes), strict=True
            ):
                own[lines] = part
            for one, ids in news:
                one.num_indexed += len(ids)
        self._free_lines += [one.line for one in self._left]
        self._left.clear()

    def _learn(self, lines: np.ndarray, counts: np.ndarray, token_ids: np.ndarray) -> None:
        """Hold what was proposed against what came."""
        firsts = np.cumsum(counts) - counts
        columns = np.arange(self._most_drafts)
        emitted = token_ids[np.minimum(firsts[:, None] + columns, len(token_ids) - 1)]
        emitted = np.where(columns < counts[:, None], emitted, NO_TOKEN)
        self._record.learn(self._kinds[lines], self._proposals[lines], emitted)
        self._proposals[lines] = NO_TOKEN

    def _propose(self, lines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return drafts (S, <= L) and their kinds (S,): the run that promises most, by what was learnt."""
        ends, groups = Ends(*(part[lines] for part in self._ends)), self._groups[lines]
        scopes = np.stack([ends.texts, groups, np.full_like(lines, EVERYWHERE)], axis=1)
        places, found_in = self._index.find(ends, scopes)
        is_own = (found_in == ends.texts[:, None, None]) | (found_in == groups[:, None, None])
        sources = np.where(is_own, OWN, np.array([OWN, SAMPLE, CORPUS])[None, :, None])
        kinds = kinds_of(sources, np.arange(len(LENGTHS))).reshape(len(lines), -1)
        places = places.reshape(len(lines), -1)
        best = np.where(places < 0, -1.0, self._record.worth[kinds]).argmax(axis=1)[:, None]
        kinds, places = (np.take_along_axis(one, best, axis=1)[:, 0] for one in (kinds, places))
        reach = self._record.survival[kinds[places >= 0]].max(axis=0, initial=0.0)
        depth = int((reach > LEAST_SURVIVAL).sum())
        drafts = self._index.follow(places, depth, repeats=kinds // len(LENGTHS) == OWN)
        self._kinds[lines] = kinds
        self._proposals[lines] = NO_TOKEN
        self._proposals[lines, :depth] = drafts
        return drafts, kinds
