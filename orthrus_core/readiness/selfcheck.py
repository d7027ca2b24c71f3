"""The start-up check behind `Engine.exactness`: the same positions, run in many arrangements, bit for bit."""

import hashlib
import itertools
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from orthrus_core.attention.rows import Span
from orthrus_core.choosers.draw import trial_choices
from orthrus_core.engine.runner import ModelRunner
from orthrus_core.models.readout import Readout
from orthrus_core.readiness.ladder import seconds_per_row, spread_out
from orthrus_core.transfer import to_device

logger = logging.getLogger(__name__)

Exactness = Literal["exact", "unverified"]
CHECKED_TOKENS = {"cpu": 288}  # more than two tiles of attention there
CHECKED_ELSEWHERE = 544  # more than two splits of it on CUDA
CHECKED_ENDS = (48, 250)  # windows of compared positions end here and at the end of the sequence
CHECKED_WINDOW = 6  # positions of a window
LONGEST_ODD_CHUNK = 96
MOST_PADDED = 192  # rows of forwards that a few fill; larger ones would compute padding
ALL_TRIED_UP_TO = 32  # rows; of larger rungs some stand for those between them, where products know no rows
Forward = tuple[int, list[Span]]  # T and what runs in it


@dataclass(frozen=True)
class Check:
    """The outcome.

    Attributes:
        exactness: "exact" if all arrangements agree.
        budgets: the fastest set of rungs that agree, ascending; all of them if unverified.
        digest: of the bits of some logits, for other processes to compare with their own.
    """

    exactness: Exactness
    budgets: tuple[int, ...]
    digest: str


def check_exactness(
    runner: ModelRunner,
    seconds: Mapping[int, float],
    *,
    least: int = 1,
    most_choosing: int | None = None,
    knows_rows: bool = True,
) -> Check:
    """Run one random sequence in several arrangements of token rows and compare the logits' bits.

    Its pages are no neighbours. First each rung of the ladder of budgets is tried against the others, in
    full forwards with heads of as many rows; those that disagree are left out. In what stays must then agree:
    single rows; odd chunks beside other traffic, on rungs picked at random, with heads of few rows; rows of
    another sequence over the same pages; and what rows draw with temperature and filters. A disagreement is
    logged as a warning: the engine works, but its text may depend on the batch.

    Args:
        runner: idle; its page tables are empty, and empty again afterwards.
        seconds: of a forward of each rung to try.
        least: rows that the largest rung must have.
        most_choosing: R, a rung: larger ones never read out more rows than this; None: all may.
        knows_rows: whether bits of the linear layers' products may depend on the number of rows.
    """
    budgets = tuple(sorted(seconds))
    checker = _Checker(runner, most_choosing or budgets[-1])
    try:
        sets = checker.agreeing_budgets(budgets, knows_rows=knows_rows)
        agreeing = fastest_set(sets, seconds, least=least)
        disagreeing = checker.disagreeing_arrangements(agreeing)
        digest = checker.digest
    finally:
        checker.close()
    if left_out := sorted(set(budgets) - set(agreeing)):
        logger.info("budgets=%s agree bit for bit, left_out=%s", agreeing, left_out)
    if disagreeing:
        logger.warning(
            "exactness=unverified: token rows differ in bits when run as %s; text may depend on the batch",
            ", ".join(disagreeing),
        )
        return Check("unverified", budgets, digest)
    return Check("exact", agreeing, digest)


def fastest_set(
    sets: Sequence[Sequence[int]], seconds: Mapping[int, float], *, least: int
) -> tuple[int, ...]:
    """Return the rungs on which a row costs least, over steps of `least` to the largest rung's rows.

    Args:
        sets: of rungs that agree, each ascending.
        seconds: of a forward of each rung.
        least: rows that the largest rung of the set must have.
    """
    demands = [rung for rung in seconds if rung >= least]
    reaching = [rungs for rungs in sets if rungs[-1] >= least]
    return tuple(min(reaching, key=lambda rungs: seconds_per_row(tuple(rungs), seconds, demands)))


class _Checker:
    """Two random sequences in slots 0 and (where there is one) 1, and ways to run them.

    Attributes:
        digest: of the bits of slot 0's first window, once `disagreeing_arrangements` ran.
    """

    def __init__(self, runner: ModelRunner, most_choosing: int):
        self._runner = runner
        self._most_choosing = most_choosing
        self._tables = tables = runner.tables
        self._random = random.Random(0)
        self.digest = ""
        self._references: dict[int, Tensor] = {}  # logits of even chunks, by their length
        self._lone: Tensor | None = None  # logits of single rows, once the rung of 1 was tried
        tables.pool.shuffle(self._random)
        num_slots = len(tables.num_held)
        room = (
            min(tables.pages.shape[1], tables.pool.num_available // min(num_slots, 2)) * tables.pool.page_size
        )
        most = CHECKED_TOKENS.get(runner.device.type, CHECKED_ELSEWHERE)
        self._tokens = self._random_tokens(min(most, room))
        self._other = self._random_tokens(max(1, len(self._tokens) // 3)) if num_slots > 1 else []
        tables.grow(0, len(self._tokens))
        if self._other:
            tables.grow(1, len(self._other))
        ends = {min(end, len(self._tokens)) for end in (*CHECKED_ENDS, len(self._tokens))}
        self._windows = [(max(0, end - CHECKED_WINDOW), end) for end in sorted(ends)]

    def close(self) -> None:
        """Give the pages back."""
        self._tables.clear(0)
        if self._other:
            self._tables.clear(1)

    def agreeing_budgets(self, budgets: Sequence[int], *, knows_rows: bool = True) -> list[list[int]]:
        """Return the rungs in sets whose rows have the same bits.

        All rungs run the windows, behind other rows, over the same keys and values, which are written anew;
        without `knows_rows` some do, and where these agree so do all.
        """
        self._references[max(budgets)] = self._logits(self._even_chunks(max(budgets)))
        if not knows_rows:
            tried = self._sets(spread_out(budgets, beyond=ALL_TRIED_UP_TO))
            if len(tried) == 1:
                return [list(budgets)]
        return self._sets(budgets)

    def _sets(self, budgets: Sequence[int]) -> list[list[int]]:
        """Return the rungs, all of which are run, in sets whose rows have the same bits."""
        sets: list[tuple[Tensor, list[int]]] = []
        for T in budgets:
            logits = self._logits(self._windows_behind_others(T))
            self._lone = logits if T == 1 else self._lone
            for bits, members in sets:
                if torch.equal(bits, logits):
                    members.append(T)
                    break
            else:
                sets.append((logits, [T]))
        return [members for _, members in sets]

    def disagreeing_arrangements(self, budgets: Sequence[int]) -> list[str]:
        """Return the names of the arrangements whose bits differ."""
        T = budgets[-1]
        reference = self._references.get(T)
        if reference is None:
            reference = self._logits(self._even_chunks(T))
        first_window = reference[: self._windows[0][1] - self._windows[0][0]]
        self.digest = hashlib.sha256(first_window.cpu().view(torch.uint8).numpy().tobytes()).hexdigest()[:16]
        least = budgets[0]
        lone = self._lone if least == 1 and self._lone is not None else self._single_rows(least)
        arrangements = {
            "single rows": lone,
            "odd chunks beside other traffic": self._logits(self._odd_chunks(budgets), least),
            "single rows after odd chunks": self._single_rows(least),
        }
        found = [name for name, logits in arrangements.items() if not torch.equal(logits, reference)]
        most = min(self._most_choosing, MOST_PADDED)
        T = max([budget for budget in budgets if budget <= most], default=budgets[0])
        count = min(CHECKED_WINDOW, T)
        small = next(budget for budget in budgets if budget >= count)
        if self._other and not torch.equal(self._logits_on_shared_pages(T, count), reference[-count:]):
            found.append("another sequence over the same pages")
        if not torch.equal(self._drawn(small, count), self._drawn(T, count)):
            found.append("rows that draw")
        return found

    def _logits_on_shared_pages(self, T: int, count: int) -> Tensor:
        """Return the logits of the same rows of a sequence that shares slot 0's pages before them."""
        tables, page_size = self._tables, self._tables.pool.page_size
        num_shared = (len(self._tokens) - count) // page_size
        shared = tables.held(0)[:num_shared]
        for page in shared:
            tables.pool.share(page)
        tables.clear(1)
        tables.adopt(1, shared)
        tables.grow(1, len(self._tokens))
        starts = range(num_shared * page_size, len(self._tokens), T)
        spans = [Span(1, start, self._tokens[start : start + T]) for start in starts]
        logits = [one for span in spans for one in self._run(T, [span], range(len(span.token_ids)), T)]
        return torch.stack(logits)[-count:]

    def _drawn(self, T: int, count: int) -> Tensor:
        """Return what slot 0's last rows draw in a forward of T rows."""
        rows = self._runner.lay_out([self._last_span(0, count)], "ar", token_budget=T)
        return trial_choices(self._runner.run(rows, "ar").logits, rows.positions)[:count]

    def _last_span(self, slot: int, count: int) -> Span:
        return Span(slot, len(self._tokens) - count, self._tokens[-count:])

    def _run(self, T: int, spans: list[Span], wanted: Sequence[int], R: int) -> Iterator[Tensor]:
        """Yield the logits of rows and the logsumexp of these (V + 1,), R rows at most read out at a time."""
        rows = self._runner.lay_out(spans, "ar", token_budget=T)
        hidden = self._runner.forward(rows, "ar")
        if T <= R:
            yield from _said(self._runner.read(rows, hidden, "ar"), wanted)
            return
        for first in range(0, len(wanted), R):
            piece = np.array(wanted[first : first + R], dtype=np.int64)
            chosen = replace(rows, choosing=to_device(np.resize(piece, R), self._runner.device))
            yield from _said(self._runner.read(chosen, hidden, "ar"), range(len(piece)))

    def _logits(self, forwards: Iterator[Forward], most_choosing: int | None = None) -> Tensor:
        """Run forwards and return slot 0's logits at the positions of all windows, in order.

        Args:
            most_choosing: R of larger forwards, which read out the rows of the windows alone; None: as many
                as may choose.
        """
        wanted = {position for start, end in self._windows for position in range(start, end)}
        found: dict[int, Tensor] = {}
        for T, spans in forwards:
            positions = [
                span.start + offset if span.slot == 0 else -1
                for span in spans
                for offset in range(len(span.token_ids))
            ]
            rows = [row for row, position in enumerate(positions) if position in wanted]
            logits = self._run(T, spans, rows, most_choosing or self._most_choosing)
            found.update((positions[row], one) for row, one in zip(rows, logits, strict=True))
        return torch.stack([found[position] for position in sorted(found)])

    def _even_chunks(self, T: int) -> Iterator[Forward]:
        for first in range(0, len(self._tokens), T):
            yield T, [Span(0, first, self._tokens[first : first + T])]

    def _single_rows(self, T: int) -> Tensor:
        """Return the logits of the windows, row by row, over the keys and values that are in the cache."""
        positions = (position for start, end in self._windows for position in range(start, end))
        return self._logits((T, [Span(0, one, [self._tokens[one]])]) for one in positions)

    def _windows_behind_others(self, T: int) -> Iterator[Forward]:
        """The windows as the last rows of full forwards, as few as hold them."""
        pieces = [
            (first, min(first + T, end)) for start, end in self._windows for first in range(start, end, T)
        ]
        while pieces:
            chosen, free = [], T
            while pieces and pieces[0][1] - pieces[0][0] <= free:
                chosen.append(pieces.pop(0))
                free -= chosen[-1][1] - chosen[-1][0]
            yield (
                T,
                [*self._others(free), *(Span(0, start, self._tokens[start:end]) for start, end in chosen)],
            )

    def _others(self, count: int) -> list[Span]:
        """Return so many rows that are in no window, or as many as there are."""
        gaps = zip(
            [0, *(end for _, end in self._windows)], [start for start, _ in self._windows], strict=False
        )
        spans = []
        for slot, start, ids in [(1, 0, self._other), *((0, a, self._tokens[a:b]) for a, b in gaps)]:
            if ids[:count]:
                spans.append(Span(slot, start, ids[:count]))
                count -= len(ids[:count])
        return spans

    def _odd_chunks(self, budgets: Sequence[int]) -> Iterator[Forward]:
        """Slot 0 from its beginning, on one rung after the other, in chunks of random length.

        The other sequence runs before or behind it.
        """
        first = 0
        rungs = [T for T in budgets if T <= MOST_PADDED] or budgets[:1]
        for T in itertools.cycle(self._random.sample(rungs, len(rungs))):
            most = max(1, min(T - 1, LONGEST_ODD_CHUNK))
            size = self._random.randint((most + 1) // 2, most)
            spans = [Span(0, first, self._tokens[first : first + size])]
            first += size
            rows_left = T - len(spans[0].token_ids)
            if self._other and rows_left:
                start = self._random.randrange(len(self._other))
                ids = self._other[start : start + self._random.randint(1, rows_left)]
                spans.insert(self._random.randint(0, 1), Span(1, start, ids))
            yield T, spans
            if first >= len(self._tokens):
                return

    def _random_tokens(self, count: int) -> list[int]:
        V = self._runner.model.config.vocab_size
        return [self._random.randrange(V) for _ in range(count)]


def _said(readout: Readout, wanted: Sequence[int]) -> Tensor:
    """Return what token and log-probability of W wanted rows are made of, (W, V + 1) float32."""
    rows = list(wanted)
    return torch.cat([readout.logits[rows].float(), readout.logsumexp[rows, None]], dim=1)
