"""The start-up check behind `Engine.exactness`: the same positions, run in many arrangements, bit for bit."""

import logging
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from orthrus_core.cache import PageTables
from orthrus_core.decoding.rows import AttentionShapes, Span
from orthrus_core.decoding.runner import ModelRunner

logger = logging.getLogger(__name__)

Exactness = Literal["exact", "unverified"]
CHECKED_TOKENS = 640  # past 512 cells, where CPU attention starts a second tile of keys
CHECKED_TAIL = 24  # positions that every arrangement runs and whose logits are compared


def check_exactness(runner: ModelRunner, tables: PageTables) -> Exactness:
    """Run one random sequence in several arrangements of token rows and compare the logits' bits.

    First each size of attention is tried against the largest; those that disagree are taken from the runner. Then
    single rows and odd chunks beside other traffic must agree in the sizes that stay. A
    disagreement is logged as a warning: the engine works, but its text may then depend on the batch.

    Args:
        runner: an idle runner; its `shapes` are narrowed to those that agree.
        tables: empty page tables; empty again afterwards.
    """
    checker = _Checker(runner, tables)
    try:
        checker.keep_agreeing_shapes()
        disagreeing = checker.disagreeing_arrangements()
    finally:
        checker.close()
    if disagreeing:
        logger.warning(
            "exactness=unverified: token rows differ in bits when run as %s; the text may depend on the batch",
            ", ".join(disagreeing),
        )
        return "unverified"
    return "exact"


class _Checker:
    """Two random sequences in slots 0 and (where there is one) 1, and ways to run them."""

    def __init__(self, runner: ModelRunner, tables: PageTables):
        self._runner = runner
        self._tables = tables
        self._random = random.Random(0)
        page_size = tables.pool.page_size
        num_slots = len(tables.num_held)
        room = min(tables.pages.shape[1], tables.pool.num_available // min(num_slots, 2)) * page_size
        self._tokens = self._random_tokens(min(CHECKED_TOKENS, room))
        self._other = self._random_tokens(min(len(self._tokens) // 3, room)) if num_slots > 1 else []
        tables.grow(0, len(self._tokens))
        if self._other:
            tables.grow(1, len(self._other))
        self._tail = min(CHECKED_TAIL, len(self._tokens))

    def close(self) -> None:
        """Give the pages back."""
        self._tables.clear(0)
        if self._other:
            self._tables.clear(1)

    def keep_agreeing_shapes(self) -> None:
        """Leave the runner the query widths that agree with the widest and the tile lengths with the longest."""
        every = self._runner.shapes
        widest = replace(every, query_widths=every.query_widths[-1:])
        self._runner.shapes = longest = replace(widest, tile_lengths=every.tile_lengths[-1:])
        self._reference = self._logits_of_tail(self._even_chunks(self._runner.token_budget))
        widths = [w for w in every.query_widths[:-1] if self._agrees_in(replace(longest, query_widths=(w,)))]
        tiles = [n for n in every.tile_lengths[:-1] if self._agrees_in(replace(widest, tile_lengths=(n, longest.tile_lengths[0])))]
        self._runner.shapes = AttentionShapes(
            (*widths, every.query_widths[-1]), (*tiles, every.tile_lengths[-1])
        )

    def _agrees_in(self, shapes: AttentionShapes) -> bool:
        """Whether the whole sequence, in chunks that fill these shapes unevenly, gives the reference's bits."""
        self._runner.shapes = shapes
        size = min(max(1, shapes.query_widths[0] * 2 - 1), self._runner.token_budget)
        return self._agrees(self._even_chunks(size))

    def disagreeing_arrangements(self) -> list[str]:
        """Return the names of the arrangements whose bits differ."""
        tail_start = len(self._tokens) - self._tail
        arrangements = {
            "single rows": self._even_chunks(1, start=tail_start),
            "odd chunks beside other traffic": self._odd_chunks(),
            "single rows after odd chunks": self._even_chunks(1, start=tail_start),
        }
        return [name for name, forwards in arrangements.items() if not self._agrees(forwards)]

    def _agrees(self, forwards: Iterator[list[Span]]) -> bool:
        return torch.equal(self._logits_of_tail(forwards), self._reference)

    def _logits_of_tail(self, forwards: Iterator[list[Span]]) -> Tensor:
        """Run forwards and return slot 0's logits at the last positions, (tail, V)."""
        tail_start = len(self._tokens) - self._tail
        found: dict[int, Tensor] = {}
        for spans in forwards:
            logits = self._runner.run(self._runner.lay_out(spans, "ar"), "ar")
            row = 0
            for span in spans:
                for position in range(span.start, span.start + len(span.token_ids)):
                    if span.slot == 0 and position >= tail_start:
                        found[position] = logits[row].clone()
                    row += 1
        return torch.stack([found[position] for position in sorted(found)])

    def _even_chunks(self, size: int, start: int = 0) -> Iterator[list[Span]]:
        for first in range(start, len(self._tokens), size):
            yield [Span(0, first, self._tokens[first : first + size])]

    def _odd_chunks(self) -> Iterator[list[Span]]:
        """Slot 0 from its beginning in chunks of random length, the other sequence before or behind it."""
        first = 0
        T = self._runner.token_budget
        while first < len(self._tokens):
            size = self._random.randint(1, max(1, min(T * 2 // 3, 64)))
            spans = [Span(0, first, self._tokens[first : first + size])]
            first += size
            if self._other:
                other_start = self._random.randrange(len(self._other))
                rows_left = T - len(spans[0].token_ids)
                ids = self._other[other_start : other_start + self._random.randint(1, max(1, rows_left))]
                if len(ids) <= rows_left:
                    spans.insert(self._random.randint(0, 1), Span(1, other_start, ids))
            yield spans

    def _random_tokens(self, count: int) -> list[int]:
        V = self._runner.model.config.vocab_size
        return [self._random.randrange(V) for _ in range(count)]
