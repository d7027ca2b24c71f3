"""Who gets the T token rows of the next step."""

import itertools
import time
from collections import deque
from dataclasses import dataclass

from orthrus_core.cache import PageTables
from orthrus_core.decoding.config import EngineConfig
from orthrus_core.decoding.sequence import NO_SLOT, Sequence


@dataclass(frozen=True)
class Work:
    """One sequence's share of a step.

    Attributes:
        sequence: whose rows these are.
        num_prefill: positions before the anchor that run in the verify forward.
        has_anchor: whether the anchor's row runs too, so that the sequence emits at least one token.
        num_drafts: proposals to draft and verify, 0 for a plain AR step.
    """

    sequence: Sequence
    num_prefill: int
    has_anchor: bool
    num_drafts: int = 0

    @property
    def num_verify_rows(self) -> int:
        """Rows in the verify forward; the draft forward has `num_drafts`."""
        return self.num_prefill + self.has_anchor + self.num_drafts


class Scheduler:
    """Holds waiting and running sequences and fills each step's token budget.

    Every running sequence that decodes gets a row for its anchor; prefill chunks come next; what is left goes
    to drafts, evenly. When pages run out, the sequence admitted last gives its pages back and waits to be
    prefilled again, which changes no text. Touches no tensor.
    """

    def __init__(self, config: EngineConfig, tables: PageTables, *, block_size: int):
        """Args: block_size is K, 0 for plain AR decoding."""
        self._config = config
        self._tables = tables
        self._block_size = block_size
        self._free_slots = list(range(config.max_sequences - 1, -1, -1))
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.num_preemptions = 0
        self.num_prefix_tokens = 0

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        self.waiting.append(sequence)

    def finish(self, sequence: Sequence) -> None:
        """Forget a running sequence and give its pages back."""
        self.running.remove(sequence)
        self._leave(sequence)

    def remove(self, request_id: int) -> bool:
        """Drop a request wherever it stands; whether it was here."""
        for sequence in self.running:
            if sequence.request_id == request_id:
                self.finish(sequence)
                return True
        for sequence in self.waiting:
            if sequence.request_id == request_id:
                self.waiting.remove(sequence)
                return True
        return False

    def pages_from(self, sequence: Sequence, position: int) -> list[int]:
        """Return the pages of a running sequence from that of a position on."""
        return self._tables.held(sequence.slot)[position // self._config.page_size :]

    def index_prompts(self, works: list[Work]) -> None:
        """Offer the prompt pages that a step completed to later prompts."""
        for work in works:
            sequence = work.sequence
            if work.num_prefill and sequence.slot != NO_SLOT:
                self._tables.pool.index_prefix(
                    self._tables.held(sequence.slot),
                    sequence.token_ids[: sequence.num_prompt],
                    sequence.num_committed,
                )

    def plan(self) -> list[Work]:
        """Decide the next step: at most T rows in its verify forward and T in its draft forward.

        Every sequence that gets rows has the pages for them.
        """
        self._admit()
        decoding = self._secure_anchors()
        prefill = self._deal_prefill(num_decoding=len(decoding))
        rows_left = self._config.token_budget - len(decoding) - sum(work.num_verify_rows for work in prefill)
        drafts = self._deal_drafts(decoding, rows_left)
        verify = [
            Work(sequence, num_prefill=0, has_anchor=True, num_drafts=count)
            for sequence, count in zip(decoding, drafts, strict=True)
        ]
        return verify + prefill

    def _admit(self) -> None:
        """Start waiting sequences while there are slots, and pages for them and a spare one per running one.

        The spare pages keep a sequence that was just preempted from coming back only to be preempted again.
        """
        while self._free_slots and (sequence := self._next_waiting()) is not None:
            shared = self._tables.pool.match_prefix(sequence.token_ids)
            page_size = self._config.page_size
            needed = -(-len(sequence.token_ids) // page_size) - len(shared)
            if needed + len(self.running) > self._tables.pool.num_available:
                for page in reversed(shared):
                    self._tables.pool.release(page)
                return
            self.waiting.remove(sequence)
            self._enter(sequence, shared)

    def _next_waiting(self) -> Sequence | None:
        """Return the first waiting sequence whose prompt no running one is just prefilling for it too.

        Samples of one prompt that come together so wait for its pages instead of each making their own.
        Only the first `max_sequences` are looked at: a long queue costs no more than a short one.
        """
        prefilling = [sequence for sequence in self.running if sequence.is_prefilling]
        for sequence in itertools.islice(self.waiting, self._config.max_sequences):
            if not any(self._will_share(sequence, other) for other in prefilling):
                return sequence
        return None

    def _will_share(self, sequence: Sequence, other: Sequence) -> bool:
        """Whether `other` has yet to make full pages of the prompt that both have."""
        prompt_len = sequence.num_prompt
        num_shared = (prompt_len - 1) // self._config.page_size * self._config.page_size
        return (
            other.num_prompt == prompt_len
            and other.num_committed < num_shared
            and other.token_ids[:prompt_len] == sequence.token_ids[:prompt_len]
        )

    def _enter(self, sequence: Sequence, shared: list[int]) -> None:
        sequence.slot = self._free_slots.pop()
        sequence.num_committed = len(shared) * self._config.page_size
        self.num_prefix_tokens += sequence.num_committed
        self._tables.adopt(sequence.slot, shared)
        self._tables.grow(sequence.slot, len(sequence.token_ids))
        if sequence.started_at is None:
            sequence.started_at = time.perf_counter()
        self.running.append(sequence)

    def _leave(self, sequence: Sequence) -> None:
        self._tables.clear(sequence.slot)
        self._free_slots.append(sequence.slot)
        sequence.slot = NO_SLOT

    def _secure_anchors(self) -> list[Sequence]:
        """Give every decoding sequence the cell of its anchor, preempting the youngest where pages lack."""
        secured: list[Sequence] = []
        for sequence in list(self.running):
            if sequence.slot == NO_SLOT or sequence.is_prefilling:
                continue
            while self._tables.grow(sequence.slot, len(sequence.token_ids)) < len(sequence.token_ids):
                victim = self.running[-1]
                self._preempt(victim)
                if victim is sequence:
                    break
            else:
                secured.append(sequence)
        return secured

    def _preempt(self, sequence: Sequence) -> None:
        self.finish(sequence)
        self.waiting.appendleft(sequence)
        self.num_preemptions += 1

    def _deal_prefill(self, *, num_decoding: int) -> list[Work]:
        """Share rows among prompts in order of admission; half the budget while drafts want the rest."""
        budget = self._config.token_budget - num_decoding
        if num_decoding and self._block_size:
            budget = max(1, min(budget, self._config.token_budget // 2))
        works = []
        for sequence in self.running:
            if not sequence.is_prefilling or budget <= 0:
                continue
            left = sequence.anchor_position - sequence.num_committed
            rows = min(left + 1, budget)
            works.append(Work(sequence, num_prefill=min(left, rows), has_anchor=rows > left))
            budget -= rows
        return works

    def _deal_drafts(self, decoding: list[Sequence], rows_left: int) -> list[int]:
        """Deal `rows_left` drafts evenly; nobody gets more than can be emitted or its pages can hold."""
        caps = [self._max_drafts(sequence) for sequence in decoding]
        order = sorted(range(len(decoding)), key=caps.__getitem__)
        counts = [0] * len(decoding)
        for num_served, index in enumerate(order):
            counts[index] = min(caps[index], max(rows_left, 0) // (len(order) - num_served))
            rows_left -= counts[index]
        for index, sequence in enumerate(decoding):
            if counts[index]:
                cells = self._tables.grow(sequence.slot, len(sequence.token_ids) + counts[index])
                counts[index] = min(counts[index], cells - len(sequence.token_ids))
        return counts

    def _max_drafts(self, sequence: Sequence) -> int:
        length_left = sequence.params.max_new_tokens - sequence.num_emitted
        context_left = self._config.max_context - len(sequence.token_ids)
        return max(0, min(self._block_size, length_left - 1, context_left - 1))
