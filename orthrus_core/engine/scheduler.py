"""Which sequences run in the next step, and in how many token rows."""

import itertools
import time
from collections import deque
from collections.abc import Sequence as SequenceOf

import numpy as np

from orthrus_core.cache import PageTables
from orthrus_core.costs import Costs
from orthrus_core.engine.blocks import BlockPolicy, Deal, Demand, FixedBlocks, Lookup
from orthrus_core.engine.config import EngineConfig
from orthrus_core.engine.course import Course, as_landed, is_free
from orthrus_core.engine.layout import StepLayout, Work, share_drafts, share_prefill
from orthrus_core.engine.sequence import NO_SLOT, Sequence


class Scheduler:
    """Holds waiting and running sequences and fills each step's token budgets.

    Every running sequence that decodes gets a row for its anchor; how many rows go to prompts and to drafts
    is up to the block policy. When pages run out, the sequence admitted last gives its pages back and waits
    to be prefilled again, which changes no text. Requests without drafts wait in a line of their own, which
    is served while the other is empty. Touches no tensor.
    """

    def __init__(
        self,
        config: EngineConfig,
        tables: PageTables,
        *,
        block_size: int,
        costs: Costs,
        policy: BlockPolicy | None = None,
        lookup: Lookup | None = None,
    ):
        """Start with nothing to do.

        Args:
            block_size: K, 0 where the diffusion view drafts nothing.
            costs: of forwards, by budget.
            policy: shares the rows of a step; None: whole blocks.
            lookup: finds drafts in text that is there already; None: nobody does.
        """
        self._config = config
        self._tables = tables
        self._block_size = block_size
        self._costs = costs
        self._policy = policy or FixedBlocks(costs)
        self._lookup = lookup
        self._free_slots = list(range(config.max_sequences - 1, -1, -1))
        self.waiting: deque[Sequence] = deque()
        self.waiting_plain: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.num_preemptions = 0
        self.num_prefix_tokens = 0
        self._course: Course | None = None  # of the last plan, while nobody comes or goes
        self._last: StepLayout | None = None  # that was observed

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence; one that follows another goes before those that do not."""
        line = self._line(sequence)
        ahead = itertools.takewhile(lambda one: one.follows, line)
        line.insert(sum(1 for _ in ahead) if sequence.follows else len(line), sequence)
        self._course = None

    @property
    def num_waiting(self) -> int:
        """Sequences in both lines."""
        return len(self.waiting) + len(self.waiting_plain)

    @property
    def num_sequences(self) -> int:
        """Sequences that run or wait."""
        return len(self.running) + self.num_waiting

    def finish(self, sequence: Sequence) -> None:
        """Forget a running sequence and give its pages back."""
        self._course = None
        self.running.remove(sequence)
        self._leave(sequence)

    def remove(self, request_id: int) -> bool:
        """Drop a request wherever it stands; whether it was here."""
        for sequence in self.running:
            if sequence.request_id == request_id:
                self.finish(sequence)
                return True
        for sequence in (*self.waiting, *self.waiting_plain):
            if sequence.request_id == request_id:
                self._line(sequence).remove(sequence)
                return True
        return False

    def pages_from(self, sequence: Sequence, position: int) -> list[int]:
        """Return the pages of a running sequence from that of a position on."""
        return self._tables.held(sequence.slot)[position // self._config.page_size :]

    def index_prompts(self, works: SequenceOf[Work]) -> None:
        """Offer the prompt pages that a step completed to later prompts."""
        for work in works:
            if work.num_prefill and work.sequence.slot != NO_SLOT:
                self._index(work.sequence, work.sequence.num_prompt)

    def _index(self, sequence: Sequence, num_tokens: int) -> None:
        pages, token_ids = self._tables.held(sequence.slot), sequence.token_ids[:num_tokens]
        self._tables.pool.index_prefix(pages, token_ids, sequence.num_committed)

    def plan(self) -> StepLayout:
        """Decide the next step. Every sequence that gets rows has the pages for them."""
        if self._last is not None and (step := self._go_on(self._last, is_running=False)) is not None:
            return step
        self._admit()
        decoding = self._secure_anchors()
        prompts = [sequence for sequence in self.running if sequence.is_prefilling]
        if not decoding and not prompts:
            return StepLayout.of([])
        demand = self._demand(decoding, prompts)
        return self._lay_out(decoding, prompts, demand, self._policy.deal(demand))

    def plan_ahead(self, step: StepLayout) -> StepLayout | None:
        """Plan the step after one that still runs, but for its tokens; None where it depends on the outcome.

        A step with drafts has an outcome of unknown length. A sequence that turns out to end in the step has
        rows in the one after it, too, whose outcome is for nobody.
        """
        if (following := self._go_on(step, is_running=True)) is not None:
            return following
        if step.blocks is not None or step.num_drafts.any() or not all(map(is_free, step.works)):
            return None
        self._admit()  # before: what the step still writes is shared by nobody
        with as_landed(step):
            return self._plan_behind()

    def _plan_behind(self) -> StepLayout | None:
        """Plan a step whose sequences are as the one before it leaves them, without drafts."""
        prompts = [one for one in self.running if one.is_prefilling]
        decoding = [one for one in self.running if not one.is_prefilling and not self._is_full(one)]
        if not decoding and not prompts:
            return None
        demand = self._demand(decoding, prompts)
        if (self._tables.grow_all(demand.slots, demand.contexts) < demand.contexts).any():
            return None
        deal = self._policy.deal(demand) if self._drafts_nothing else self._policy.rest(demand)
        return None if deal is None else self._lay_out(decoding, prompts, demand, deal)

    def _go_on(self, step: StepLayout, *, is_running: bool) -> StepLayout | None:
        following = self._course and self._course.after(step, self._tables, is_running=is_running)
        return following if following and (self._drafts_nothing or self._policy.rest(None)) else None

    @property
    def _drafts_nothing(self) -> bool:
        return not self._block_size and self._lookup is None

    def _is_full(self, sequence: Sequence) -> bool:
        """Whether a sequence has all tokens that it may have."""
        return len(sequence.token_ids) >= min(sequence.most_tokens, self._config.max_context)

    def _lay_out(
        self, decoding: list[Sequence], prompts: list[Sequence], demand: Demand, deal: Deal
    ) -> StepLayout:
        """Return the rows of a deal, and set the course from there."""
        drafts = self._fit_pages(demand, deal.num_drafts).tolist()
        works = share_drafts(decoding, drafts, deal)
        num_draft_rows = sum(work.num_draft_rows for work in works) if any(drafts) else 0
        works += (prefills := share_prefill(prompts, deal.num_prefill))
        blocks, num_rows = deal.blocks_beside(drafts), len(decoding) + sum(drafts) + deal.num_prefill
        num_block_rows = 0 if blocks is None else int(blocks.counts.sum())
        verify_budget, block_budget = self._costs.both_budgets(num_rows, num_block_rows)
        num_choosing = len(decoding) + sum(drafts) + sum(work.has_anchor for work in prefills)
        choice_budget = self._costs.choice_budget(max(num_choosing, self._num_scored(prefills)))
        step = StepLayout.of(
            works,
            draft_budget=self._costs.draft_budget(num_draft_rows),
            verify_budget=verify_budget,
            choice_budget=min(choice_budget, verify_budget),
            blocks=blocks,
            block_budget=block_budget,
        )
        is_of_all = len(works) == len(self.running)
        self._course = Course.of(step, max_context=self._config.max_context) if is_of_all else None
        return step

    def _num_scored(self, works: SequenceOf[Work]) -> int:
        """Return how many prefill rows are to be read out for prompts that are scored; of more, the most."""
        count = sum(work.num_prefill for work in works if work.sequence.params.prompt_logprobs)
        return min(count, self._costs.choosing_budgets[-1])

    def _demand(self, decoding: list[Sequence], prompts: list[Sequence]) -> Demand:
        facts = [(one.slot, len(one.token_ids), one.most_tokens, one.drafts) for one in decoding]
        slots, lengths, most, drafts = np.array(facts, dtype=np.int64).reshape(-1, 4).T
        remaining = (np.minimum(most, self._config.max_context) - lengths).clip(1)
        committed = sum(sequence.num_committed for sequence in prompts)
        room = (remaining - 1).clip(0) * drafts
        lookup, caps = self._lookup, np.minimum(room, self._block_size)
        at_hand = np.array([len(one.draft_ids) for one in decoding], dtype=np.int64)
        return Demand(
            slots,
            caps,
            lengths,
            sum(len(sequence.token_ids) - sequence.num_committed for sequence in prompts),
            committed / max(1, len(prompts)),
            len(prompts),
            None if self.num_waiting else remaining,
            None if lookup is None or not room.any() else lambda: lookup.offer(decoding).cut_to(room),
            np.minimum(at_hand, caps) if self._may_draft_ahead(decoding) else None,
            remaining * drafts,
            self._tables.num_branches,
        )

    def _may_draft_ahead(self, decoding: list[Sequence]) -> bool:
        """Whether a step may draft for the next one: the rejection rule needs what drafts were drawn from."""
        if self._costs.both_s is None or not self._block_size:
            return False
        return self._config.consensus == "coupled" or not any(one.params.temperature for one in decoding)

    def observe(self, step: StepLayout, num_accepted: np.ndarray, *, seconds: float | None = None) -> None:
        """Tell the block policy how many drafts of each work (S,) were accepted; lookup sees for itself.

        Called while the sequences still hold their slots, after steps without drafts too.

        Args:
            seconds: that the step took so far; None: not to be learnt from.
        """
        self._last = step
        if self._drafts_nothing:
            return
        drafts = np.flatnonzero((step.num_drafts > 0) & ~step.is_lookup)
        slots = np.array([step.works[line].sequence.slot for line in drafts], dtype=np.int64)
        self._policy.observe(slots, step.num_drafts[drafts], num_accepted[drafts])
        if seconds is not None and self._costs.is_measured:
            self._policy.time(seconds)

    def forget_texts(self) -> None:
        """Look up nothing in texts from before."""
        if self._lookup is not None:
            self._lookup.forget_texts()

    def _admit(self) -> None:
        """Start waiting sequences while there are slots, and pages for them and a spare one per running one.

        The spare pages keep a sequence that was just preempted from coming back only to be preempted again.
        """
        while self._free_slots and (sequence := self._next_waiting()) is not None:
            is_scored = sequence.params.prompt_logprobs  # and so wants the logits of every row
            shared = [] if is_scored else self._tables.pool.match_prefix(sequence.token_ids)
            page_size = self._config.page_size
            needed = -(-len(sequence.token_ids) // page_size) - len(shared)
            if needed + len(self.running) > self._tables.pool.num_available:
                for page in reversed(shared):
                    self._tables.pool.release(page)
                return
            self._line(sequence).remove(sequence)
            self._enter(sequence, shared)

    def _next_waiting(self) -> Sequence | None:
        """Return the first waiting sequence whose prompt no running one is just prefilling a part of.

        Prompts with a common beginning that come together so wait for its pages instead of each making
        their own.
        Only the first `max_sequences` are looked at: a long queue costs no more than a short one.
        """
        prefilling = [sequence for sequence in self.running if sequence.is_prefilling]
        line = self.waiting or self.waiting_plain
        for sequence in itertools.islice(line, self._config.max_sequences):
            if not any(self._will_share(sequence, other) for other in prefilling):
                return sequence
        return None

    def _will_share(self, sequence: Sequence, other: Sequence) -> bool:
        """Whether `other` has yet to make the next full page of a prompt beginning that both have."""
        page_end = (other.num_committed // self._config.page_size + 1) * self._config.page_size
        return (
            not sequence.params.prompt_logprobs
            and page_end < sequence.num_prompt
            and page_end <= other.num_prompt
            and other.token_ids[:page_end] == sequence.token_ids[:page_end]
        )

    def _enter(self, sequence: Sequence, shared: list[int]) -> None:
        sequence.slot = self._free_slots.pop()
        sequence.num_committed = len(shared) * self._config.page_size
        self.num_prefix_tokens += sequence.num_committed
        self._tables.adopt(sequence.slot, shared)
        self._tables.grow(sequence.slot, len(sequence.token_ids))
        if sequence.started_at is None:
            sequence.started_at = time.perf_counter()
            sequence.stats.cached_tokens = sequence.num_committed
        self.running.append(sequence)

    def _leave(self, sequence: Sequence) -> None:
        if sequence.followed:
            self._index(sequence, len(sequence.token_ids))
        self._tables.clear(sequence.slot)
        self._policy.forget(sequence.slot)
        if self._lookup is not None:
            self._lookup.leave(sequence)
        self._free_slots.append(sequence.slot)
        sequence.slot = NO_SLOT

    def _secure_anchors(self) -> list[Sequence]:
        """Give every decoding sequence the cell of its anchor, preempting the youngest where pages lack."""
        secured: list[Sequence] = []
        cells = (self._tables.num_held * self._config.page_size).tolist()
        for sequence in list(self.running):
            length = len(sequence.token_ids)
            if sequence.slot == NO_SLOT or sequence.num_committed < length - 1:
                continue
            if length <= cells[sequence.slot]:
                secured.append(sequence)
                continue
            while self._tables.grow(sequence.slot, length) < length:
                victim = self.running[-1]
                self._preempt(victim)
                if victim is sequence:
                    break
            else:
                secured.append(sequence)
        return secured

    def _preempt(self, sequence: Sequence) -> None:
        self.finish(sequence)
        self._line(sequence).appendleft(sequence)
        self.num_preemptions += 1

    def _line(self, sequence: Sequence) -> deque[Sequence]:
        return self.waiting if sequence.drafts else self.waiting_plain

    def _fit_pages(self, demand: Demand, num_drafts: np.ndarray) -> np.ndarray:
        """Take pages for the drafts (S,); return how many drafts of each sequence they hold."""
        cells = self._tables.grow_all(demand.slots, demand.contexts + num_drafts)
        return np.minimum(num_drafts, cells - demand.contexts)
