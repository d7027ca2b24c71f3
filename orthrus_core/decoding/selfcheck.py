"""The start-up check behind `Engine.exactness`: the same positions, run in many arrangements, bit for bit."""

import logging
import random
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from orthrus_core.attention.tiled import TiledAttention
from orthrus_core.attention.tiles import AttentionShapes
from orthrus_core.cache import PageTables
from orthrus_core.decoding.rows import Span, first_rows
from orthrus_core.decoding.runner import ModelRunner

logger = logging.getLogger(__name__)

Exactness = Literal["exact", "unverified"]
CHECKED_TOKENS = 640  # past 512 cells, where CPU attention starts a second tile of keys
CHECKED_ENDS = (48, 250)  # windows of compared positions end here and at the end of the sequence
CHECKED_WINDOW = 12  # positions of a window


def check_exactness(runner: ModelRunner, tables: PageTables) -> Exactness:
    """Run one random sequence in several arrangements of token rows and compare the logits' bits.

    First each size of attention is tried against the largest; those that disagree are taken from the runner.
    Then single rows and odd chunks beside other traffic must agree in the sizes that stay. A
    disagreement is logged as a warning: the engine works, but its text may then depend on the batch.

    Args:
        runner: an idle runner; its `shapes` are narrowed to those that agree.
        tables: empty page tables; empty again afterwards.
    """
    checker = _Checker(runner, tables)
    try:
        checker.settle_shapes()
        disagreeing = checker.disagreeing_arrangements()
    finally:
        checker.close()
    if disagreeing:
        logger.warning(
            "exactness=unverified: token rows differ in bits when run as %s; text may depend on the batch",
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
        num_slots = len(tables.num_held)
        room = (
            min(tables.pages.shape[1], tables.pool.num_available // min(num_slots, 2)) * tables.pool.page_size
        )
        self._tokens = self._random_tokens(min(CHECKED_TOKENS, room))
        self._other = self._random_tokens(max(1, len(self._tokens) // 3)) if num_slots > 1 else []
        tables.grow(0, len(self._tokens))
        if self._other:
            tables.grow(1, len(self._other))
        ends = {min(end, len(self._tokens)) for end in (*CHECKED_ENDS, len(self._tokens))}
        self._windows = [(max(0, end - CHECKED_WINDOW), end) for end in sorted(ends)]
        self._reference = torch.empty(0)

    def close(self) -> None:
        """Give the pages back."""
        self._tables.clear(0)
        if self._other:
            self._tables.clear(1)

    def settle_shapes(self) -> None:
        """Leave tiled attention the query widths that agree with the widest, the tiles with the longest."""
        backend = self._runner.backend
        if not isinstance(backend, TiledAttention):
            self._reference = self._logits(self._even_chunks(self._runner.token_budget))
            return
        every = backend.shapes
        widest, longest = every.query_widths[-1], every.tile_lengths[-1]
        backend.shapes = AttentionShapes((widest,), (longest,))
        self._reference = self._logits(self._even_chunks(self._runner.token_budget))
        widths = [
            W for W in every.query_widths[:-1] if self._agrees_in(backend, AttentionShapes((W,), (longest,)))
        ]
        tiles = [
            tile
            for tile in every.tile_lengths[:-1]
            if self._agrees_in(backend, AttentionShapes((widest,), (tile, longest)))
        ]
        backend.shapes = AttentionShapes((*widths, widest), (*tiles, longest))

    def disagreeing_arrangements(self) -> list[str]:
        """Return the names of the arrangements whose bits differ."""
        arrangements = {
            "single rows": self._windows_in_chunks(1),
            "odd chunks beside other traffic": self._odd_chunks(),
            "single rows after odd chunks": self._windows_in_chunks(1),
        }
        return [name for name, forwards in arrangements.items() if not self._agrees(forwards)]

    def _agrees_in(self, backend: TiledAttention, shapes: AttentionShapes) -> bool:
        """Whether chunks that fill these shapes unevenly give the reference's bits."""
        backend.shapes = shapes
        size = min(max(1, shapes.query_widths[0] * 2 - 1), self._runner.token_budget)
        return self._agrees(self._windows_in_chunks(size))

    def _agrees(self, forwards: Iterator[list[Span]]) -> bool:
        return torch.equal(self._logits(forwards), self._reference)

    def _logits(self, forwards: Iterator[list[Span]]) -> Tensor:
        """Run forwards and return slot 0's logits at the positions of all windows, in order."""
        wanted = {position for start, end in self._windows for position in range(start, end)}
        found: dict[int, Tensor] = {}
        for spans in forwards:
            logits = self._runner.run(self._runner.lay_out(spans, "ar"), "ar")
            for span, first in zip(spans, first_rows(spans), strict=True):
                for offset in range(len(span.token_ids)):
                    if span.slot == 0 and span.start + offset in wanted:
                        found[span.start + offset] = logits[first + offset].clone()
        return torch.stack([found[position] for position in sorted(found)])

    def _even_chunks(self, size: int) -> Iterator[list[Span]]:
        for first in range(0, len(self._tokens), size):
            yield [Span(0, first, self._tokens[first : first + size])]

    def _windows_in_chunks(self, size: int) -> Iterator[list[Span]]:
        """Only the windows, over the keys and values that an earlier arrangement left in the cache."""
        for start, end in self._windows:
            for first in range(start, end, size):
                yield [Span(0, first, self._tokens[first : min(first + size, end)])]

    def _odd_chunks(self) -> Iterator[list[Span]]:
        """Slot 0 from its beginning in chunks of random length, the other sequence before or behind it."""
        first = 0
        T = self._runner.token_budget
        while first < len(self._tokens):
            size = self._random.randint(1, max(1, T * 2 // 3))
            spans = [Span(0, first, self._tokens[first : first + size])]
            first += size
            rows_left = T - len(spans[0].token_ids)
            if self._other and rows_left:
                start = self._random.randrange(len(self._other))
                ids = self._other[start : start + self._random.randint(1, rows_left)]
                spans.insert(self._random.randint(0, 1), Span(1, start, ids))
            yield spans

    def _random_tokens(self, count: int) -> list[int]:
        V = self._runner.model.config.vocab_size
        return [self._random.randrange(V) for _ in range(count)]
