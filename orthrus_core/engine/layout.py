"""Who runs in a step, and in which token rows: worked out once, for both of its forwards."""

from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from torch import Tensor

from orthrus_core.attention.rows import Spans, count_up
from orthrus_core.engine.blocks import Blocks, Deal
from orthrus_core.engine.sequence import Sequence


class Work(NamedTuple):
    """One sequence's share of a step.

    Attributes:
        sequence: whose rows these are.
        num_prefill: positions before the anchor that run in the verify forward.
        has_anchor: whether the anchor's row runs too, so that the sequence emits at least one token.
        num_drafts: proposals to verify, 0 for a plain AR step.
        draft_ids: they themselves, where they are known beforehand; None: the draft forward makes them.
        is_lookup: whether they were looked up.
    """

    sequence: Sequence
    num_prefill: int
    has_anchor: bool
    num_drafts: int = 0
    draft_ids: list[int] | None = None
    is_lookup: bool = False

    @property
    def num_verify_rows(self) -> int:
        """Rows in the verify forward."""
        return self.num_prefill + self.has_anchor + self.num_drafts

    @property
    def num_draft_rows(self) -> int:
        """Rows in the draft forward."""
        return self.num_drafts if self.draft_ids is None else 0

    @property
    def next_ids(self) -> list[int]:
        """Tokens that follow those of the prefill rows."""
        start = self.sequence.num_committed + 1
        return self.sequence.token_ids[start : start + self.num_prefill]

    @property
    def known_ids(self) -> list[int]:
        """Tokens of the rows before the drafts."""
        start = self.sequence.num_committed
        return self.sequence.token_ids[start : start + self.num_prefill + self.has_anchor]


@dataclass(frozen=True, slots=True)
class ChoosingRows:
    """Token rows of the work in one line of a step, one after the other, that choose a token each.

    Attributes:
        line: of the work.
        sequence: whose rows these are.
        first: place of the first among the rows of the forward that choose.
        count: how many they are.
    """

    line: int
    sequence: Sequence
    first: int
    count: int


@dataclass(frozen=True)
class StepLayout:
    """The token rows of a step; S works, D drafts that its draft forward makes, C rows that choose.

    In the draft forward row d is draft d, work after work; a row proposes the token of the next position. In
    the verify forward each work has its prefill rows, its anchor and its drafts, work after work; anchors and
    drafts choose.

    Attributes:
        works: each sequence's share; empty when nothing runs.
        draft_budget: T of the draft forward, 0 when nobody drafts.
        verify_budget: T of the verify forward.
        choice_budget: R, rows of it that are read out, at least C.
        has_anchor: (S,) bool, see `Work`.
        is_lookup: (S,) bool, see `Work`.
        num_drafts: (S,) int64, looked up ones among them.
        num_draft_rows: (S,) int64, those that the draft forward makes.
        draft_rows: (S,) int64, first row of each work in the draft forward.
        anchor_rows: (S,) int64, row of each anchor in the verify forward.
        target_rows: (D,) int64, row of each draft of the draft forward in the verify forward.
        choices: (S,) int64, place of each anchor among the rows that choose; of works without one it means
            nothing.
        verify_spans: each work's prefill chunk, anchor, and its drafts or room for them, to run causally.
        blocks: for the next step, see `Deal.blocks`.
        block_budget: rows of theirs in the one forward, behind the `verify_budget`.
    """

    works: list[Work]
    draft_budget: int
    verify_budget: int
    choice_budget: int
    has_anchor: np.ndarray
    is_lookup: np.ndarray
    num_drafts: np.ndarray
    num_draft_rows: np.ndarray
    draft_rows: np.ndarray
    anchor_rows: np.ndarray
    target_rows: np.ndarray
    choices: np.ndarray
    verify_spans: Spans
    blocks: Blocks | None = None
    block_budget: int = 0

    @classmethod
    def of(
        cls,
        works: SequenceOf[Work],
        *,
        draft_budget: int = 0,
        verify_budget: int = 0,
        choice_budget: int | None = None,
        blocks: Blocks | None = None,
        block_budget: int = 0,
    ) -> "StepLayout":
        """Lay the works out in order; `choice_budget` is that of all rows where none is given."""
        facts = [
            (
                prefill,
                has_anchor,
                drafts,
                ids is None,
                is_lookup,
                sequence.slot,
                sequence.num_committed,
                sequence.token_ids[-1],
            )
            for sequence, prefill, has_anchor, drafts, ids, is_lookup in works
        ]
        num_prefill, has_anchor, num_drafts, is_block, is_lookup, slots, starts, last_ids = (
            np.array(facts, dtype=np.int64).reshape(-1, 8).T
        )
        counts = num_prefill + has_anchor + num_drafts
        anchor_rows = np.cumsum(counts) - num_drafts - 1
        token_ids = np.zeros(counts.sum(), dtype=np.int64)
        token_ids[anchor_rows] = last_ids
        for line in np.flatnonzero(num_prefill).tolist():
            known = works[line].known_ids
            token_ids[anchor_rows[line] + 1 - len(known) : anchor_rows[line] + 1] = known
        for line in np.flatnonzero(num_drafts * (1 - is_block)).tolist():
            first = anchor_rows[line] + 1
            token_ids[first : first + num_drafts[line]] = works[line].draft_ids
        num_draft_rows = num_drafts * is_block
        return cls(
            works=list(works),
            draft_budget=draft_budget,
            verify_budget=verify_budget,
            choice_budget=verify_budget if choice_budget is None else choice_budget,
            has_anchor=has_anchor > 0,
            is_lookup=is_lookup > 0,
            num_drafts=num_drafts,
            num_draft_rows=num_draft_rows,
            draft_rows=np.cumsum(num_draft_rows) - num_draft_rows,
            anchor_rows=anchor_rows,
            target_rows=np.repeat(anchor_rows, num_draft_rows) + 1 + count_up(num_draft_rows),
            choices=np.cumsum(has_anchor + num_drafts) - num_drafts - 1,
            verify_spans=Spans(slots, starts, counts, token_ids),
            blocks=blocks,
            block_budget=block_budget,
        )

    def moved_on(self, last_ids: np.ndarray) -> "StepLayout":
        """Return the same rows a position further on, of a step of anchors alone; `last_ids` are theirs."""
        spans = replace(self.verify_spans, starts=self.verify_spans.starts + 1, token_ids=last_ids)
        return replace(self, verify_spans=spans)

    @property
    def num_verify_rows(self) -> int:
        """Rows in use of the verify forward."""
        return len(self.verify_spans.token_ids)

    @property
    def choosing(self) -> np.ndarray | None:
        """(R,) int64, the rows of the verify forward to read out, the C that choose first; None: all of it.

        Rows of prompts choose nothing, so where none runs every row does, if so many may.
        """
        counts, chosen = self.verify_spans.counts, self.has_anchor + self.num_drafts
        if self.choice_budget == self.verify_budget and np.array_equal(counts, chosen):
            return None
        rows = np.zeros(self.choice_budget, dtype=np.int64)
        rows[: chosen.sum()] = np.repeat(self.anchor_rows, chosen) + count_up(chosen)
        return rows

    def draft_spans(self, mask_token_id: int) -> Spans:
        """Return a block [anchor, MASK, ...] per work of the draft forward."""
        lines, spans = np.flatnonzero(self.num_draft_rows), self.verify_spans
        token_ids = np.full(len(self.target_rows), mask_token_id)
        token_ids[self.draft_rows[lines]] = spans.token_ids[self.anchor_rows[lines]]
        anchors = spans.starts + spans.counts - self.num_drafts - 1
        return Spans(spans.slots[lines], anchors[lines], self.num_draft_rows[lines], token_ids)

    def drafting(self) -> Iterator[ChoosingRows]:
        """The rows of the draft forward, by work; none of works without any."""
        for line, (work, first) in enumerate(zip(self.works, self.draft_rows.tolist(), strict=True)):
            if work.num_draft_rows:
                yield ChoosingRows(line, work.sequence, first, work.num_draft_rows)

    def verifying(self) -> Iterator[ChoosingRows]:
        """The rows of the verify forward that choose: anchors and drafts; prefill rows choose nothing."""
        for line, (work, first) in enumerate(zip(self.works, self.choices.tolist(), strict=True)):
            if work.has_anchor:
                yield ChoosingRows(line, work.sequence, first, 1 + work.num_drafts)

    def drafts_of(self, line: int, draft_ids: Tensor | None) -> list[int]:
        """Return one work's drafts, its own or those of all (D,), on the host."""
        own = self.works[line].draft_ids
        if own is not None:
            return own
        if draft_ids is None:
            return []
        first = int(self.draft_rows[line])
        return draft_ids[first : first + self.works[line].num_drafts].tolist()


def share_drafts(decoding: list[Sequence], drafts: list[int], deal: Deal) -> list[Work]:
    """Return works that give every decoding sequence its anchor and its drafts."""
    if deal.blocks is None and deal.is_lookup is None:
        return [Work(one, 0, True, count) for one, count in zip(decoding, drafts, strict=True)]
    return [
        Work(one, 0, True, count, deal.known_ids(line, one, count), deal.looks_up(line))
        for line, (one, count) in enumerate(zip(decoding, drafts, strict=True))
    ]


def share_prefill(prompts: list[Sequence], num_rows: int) -> list[Work]:
    """Return works that give rows to prompts in order of admission."""
    works = []
    for sequence in prompts:
        if num_rows <= 0:
            break
        left = sequence.anchor_position - sequence.num_committed
        rows = min(left + 1, num_rows)
        works.append(Work(sequence, num_prefill=min(left, rows), has_anchor=rows > left))
        num_rows -= rows
    return works
