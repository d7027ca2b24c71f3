"""A virtual clock for the real scheduler: no model, known acceptance, known costs."""

from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import numpy as np

from orthrus_core.cache import PagePool, PageTables
from orthrus_core.costs import CellCosts, Costs
from orthrus_core.engine.blocks import Offer
from orthrus_core.engine.config import EngineConfig
from orthrus_core.engine.layout import StepLayout
from orthrus_core.engine.scheduler import Scheduler
from orthrus_core.engine.sequence import Sequence
from orthrus_core.lookup.record import OWN, MatchRecord, kinds_of
from orthrus_core.readiness.engine import new_policy
from orthrus_core.request import SamplingParams

PAGE_SIZE = 64


@dataclass(frozen=True)
class Job:
    """One request of a simulated run.

    Attributes:
        acceptance: of the draft at each position when all before it were accepted.
        prompt_tokens: at least 1.
        completion_tokens: at least 1.
        limit: most tokens that the scheduler knows of; None: `completion_tokens` itself.
        turns_at: tokens after which the text is another, with the acceptance of `then`.
    """

    acceptance: tuple[float, ...]
    prompt_tokens: int
    completion_tokens: int
    limit: int | None = None
    turns_at: int | None = None
    then: tuple[float, ...] | None = None

    @property
    def max_new_tokens(self) -> int:
        """What the request says."""
        return self.limit or self.completion_tokens


class KnownLookup:
    """Offers L drafts to everybody in every step, as if a long run of its own text had been found.

    Attributes:
        rates: (L,) of the draft at each position, that it stands if all before it do.
        seconds: of the host, each time it is asked.
        num_asked: how often.
    """

    def __init__(self, rate: float, *, most: int = 8, seconds: float = 0.0):
        self.rates, self.seconds, self.num_asked = np.full(most, rate), seconds, 0
        self._record, self._random = MatchRecord(most), np.random.default_rng(0)

    def offer(self, sequences: SequenceOf[Sequence]) -> Offer:
        """Return drafts, and learn how those of the last time did, by other luck than that of the run."""
        S, L = len(sequences), len(self.rates)
        kinds, drafts = kinds_of(np.full(S, OWN), np.full(S, 4)), np.zeros((S, L), dtype=np.int64)
        if self.num_asked:
            self._record.learn(kinds, drafts, (self._random.random((S, L)) >= self.rates).astype(np.int64))
        self.num_asked += 1
        return Offer(drafts, np.full(S, L), self._record.survival[kinds], self.seconds)

    def leave(self, sequence: Sequence) -> None:
        """See `Lookup`."""

    def forget_texts(self) -> None:
        """See `Lookup`."""


class Simulation:
    """Runs jobs through a scheduler; a draft stands when a number drawn for (job, token) allows it.

    The numbers depend on the seed alone, so two policies see the same luck. Drafts that the step before left
    are those of a block whose first row had to guess right too.

    Attributes:
        clock_s: seconds of all steps so far.
        tokens: emitted.
        expected_tokens: `tokens` as the true acceptance has it, without the luck of the draws.
        draft_forwards: steps with a draft forward.
        both_forwards: steps that drafted for the next one.
        steps: all steps.
        policy: of the scheduler.
    """

    def __init__(
        self,
        jobs: Iterable[Job],
        costs: Costs,
        *,
        block_size: int,
        max_sequences: int,
        block_policy: str = "adaptive",
        seed: int = 0,
        believed: Costs | None = None,
        lookup: KnownLookup | None = None,
    ):
        """Args: believed: costs that the scheduler goes by; None: `costs`, which the clock runs by."""
        self.jobs = list(jobs)
        self.costs = costs
        self.clock_s = self.expected_tokens = 0.0
        self.tokens = self.draft_forwards = self.both_forwards = self.steps = 0
        longest = max(job.prompt_tokens + job.max_new_tokens for job in self.jobs) + 1
        config = EngineConfig(
            token_budget=costs.budgets[-1],
            block_policy=block_policy,
            max_sequences=max_sequences,
            max_context=longest,
            page_size=PAGE_SIZE,
            self_check=False,
        )
        pool = PagePool(config.total_pages, PAGE_SIZE)
        self._tables = PageTables(
            pool,
            num_slots=max_sequences,
            pages_per_sequence=config.pages_per_sequence,
            num_branches=0 if costs.both_s is None else costs.choosing_budgets[-1] // block_size,
            cells_per_branch=max(1, block_size),
        )
        known = believed or costs
        self.policy = policy = new_policy(config, known, block_size=block_size)
        self.scheduler = Scheduler(
            config, self._tables, block_size=block_size, costs=known, policy=policy, lookup=lookup
        )
        self._lookup, self._block_size = lookup, block_size
        depth = max(block_size, 0 if lookup is None else len(lookup.rates))
        for index, job in enumerate(self.jobs):
            params = SamplingParams(max_new_tokens=job.max_new_tokens, ignore_eos=True)
            # prompts without a common beginning
            self.scheduler.add(Sequence(index, [index] * job.prompt_tokens, params, frozenset(), None))
        random = np.random.default_rng(seed)
        most = max(job.completion_tokens for job in self.jobs) + depth + 1
        self._luck = random.random((len(self.jobs), most))
        self._acceptance = np.zeros((len(self.jobs), 2, depth))
        for own, job in zip(self._acceptance, self.jobs, strict=True):
            own[:, :block_size] = job.acceptance[:block_size], (job.then or job.acceptance)[:block_size]
        self._turns_at = np.array([most if job.turns_at is None else job.turns_at for job in self.jobs])

    def run(self, max_steps: int | None = None) -> "Simulation":
        """Step until all jobs ended, or `max_steps` times."""
        while self.scheduler.num_sequences and self.steps != max_steps:
            self.step()
        return self

    def step(self) -> StepLayout:
        """Plan a step, draw its outcome and let the clock run."""
        started_s, num_asked = self.clock_s, self._lookup.num_asked if self._lookup else 0
        step = self.scheduler.plan()
        if self._lookup:
            self.clock_s += self._lookup.seconds * (self._lookup.num_asked - num_asked)
        assert step.works, "the scheduler makes no progress"
        assert len(step.target_rows) <= step.draft_budget <= self.costs.budgets[-1]
        assert step.num_verify_rows <= step.verify_budget <= self.costs.budgets[-1]
        if step.blocks is not None:
            self._branch(step)
        accepted = self._accept(step)
        self._count(step)
        self.scheduler.observe(step, accepted, seconds=self.clock_s - started_s)
        self._commit(step, accepted.tolist())
        return step

    def _branch(self, step: StepLayout) -> None:
        """Hold the blocks for the next step against what an engine can run."""
        lines, points, counts = step.blocks
        spans, works = step.verify_spans, [step.works[line] for line in lines.tolist()]
        assert not step.draft_budget, "a step of one forward has two"
        assert set(counts.tolist()) <= set(range(2, self._block_size + 1))
        assert counts.sum() <= step.block_budget
        assert all(work.has_anchor and not work.num_prefill for work in works)
        assert (points <= step.num_drafts[lines]).all(), "a block is anchored at no verified row"
        assert len(set(zip(lines.tolist(), points.tolist(), strict=True))) == len(lines)
        self._tables.branch(spans.slots[lines], spans.starts[lines] + points)
        ends = spans.starts[lines] + points + counts
        assert all(end < work.sequence.most_tokens for end, work in zip(ends, works, strict=True))

    def _accept(self, step: StepLayout) -> np.ndarray:
        """Return (S,) accepted drafts of each work."""
        jobs = np.array([work.sequence.request_id for work in step.works])
        emitted = np.array([work.sequence.num_emitted for work in step.works])
        rates = self._acceptance[jobs, (emitted >= self._turns_at[jobs]).astype(int)]
        is_at_hand = np.array([work.draft_ids is not None for work in step.works])
        rates[is_at_hand] = _ahead(rates[is_at_hand])
        positions = np.arange(rates.shape[1])
        if self._lookup is not None:
            L = len(self._lookup.rates)
            rates[np.array([work.is_lookup for work in step.works]), :L] = self._lookup.rates
        is_draft = positions < step.num_drafts[:, None]
        self._expected = np.cumprod(rates * is_draft, axis=1)
        agrees = self._luck[jobs[:, None], emitted[:, None] + positions] < rates * is_draft
        return np.cumprod(agrees, axis=1).sum(axis=1)

    def _commit(self, step: StepLayout, accepted: list[int]) -> None:
        for work, count in zip(step.works, accepted, strict=True):
            sequence = work.sequence
            sequence.num_committed += work.num_prefill
            if not work.has_anchor:
                continue
            left = self.jobs[sequence.request_id].completion_tokens - sequence.num_emitted
            emitted = min(count + 1, left)
            sequence.token_ids += [0] * emitted
            sequence.draft_ids = ()
            sequence.num_committed += emitted
            self.tokens += emitted
            if emitted == left:
                self.scheduler.finish(sequence)
        if step.blocks is not None:
            for line, point, num_rows in zip(*(part.tolist() for part in step.blocks), strict=True):
                if accepted[line] == point:
                    step.works[line].sequence.draft_ids = [0] * (num_rows - 1)

    def _count(self, step: StepLayout) -> None:
        costs = self.costs
        contexts = np.array([work.sequence.num_committed for work in step.works])
        verify_rows = np.array([work.num_verify_rows for work in step.works])
        self.steps += 1
        self.clock_s += cells_s(costs.verify_cells, contexts, verify_rows)
        self.clock_s += cells_s(costs.draft_cells, contexts, step.num_draft_rows)
        num_rows = step.verify_budget + step.block_budget
        self.clock_s += costs.step_s + costs.verify_s[costs.budgets.index(num_rows)]
        self.clock_s += costs.sequence_s * len(step.works)
        if step.blocks is not None:
            lines, points, counts = step.blocks
            self.both_forwards += 1
            self.clock_s += costs.both_s + cells_s(costs.draft_cells, contexts[lines] + points, counts)
        if step.draft_budget:
            self.draft_forwards += 1
            self.clock_s += costs.draft_s[costs.budgets.index(step.draft_budget)]
            self.clock_s += costs.sequence_s * np.count_nonzero(step.num_draft_rows)
        self.expected_tokens += sum(work.has_anchor for work in step.works) + float(self._expected.sum())


def _ahead(rates: np.ndarray) -> np.ndarray:
    """Return (S, K) acceptance of drafts that a block beside the step before made, of (S, K) of a block."""
    ahead = np.roll(rates, -1, axis=1)
    ahead[:, :1] *= rates[:, :1]
    return ahead


def cells_s(costs: CellCosts, contexts: np.ndarray, num_rows: np.ndarray) -> float:
    """Seconds that reading the cache adds to a forward; contexts and rows (S,) of its sequences."""
    cells = contexts * (num_rows > 0)
    return float(costs.sequence_s * cells.sum() + costs.row_s * (cells * num_rows).sum())


def fixed_rate(acceptances: np.ndarray, costs: Costs, num_drafts: int, context: int = 0) -> float:
    """Tokens/s of endless sequences that all draft `num_drafts` in every step, at the best rungs; exact.

    Args:
        acceptances: (S, K) conditional acceptance of each sequence.
        costs: of the forwards.
        num_drafts: 0 is AR decoding; S * (num_drafts + 1) rows must fit the largest budget.
        context: cells that each sequence reads.
    """
    S = len(acceptances)
    contexts = np.full(S, context)
    tokens = S + float(np.cumprod(acceptances, axis=1)[:, :num_drafts].sum())
    seconds = costs.step_s + costs.sequence_s * S + cheapest(costs.verify_s, costs, S * (num_drafts + 1))
    seconds += cells_s(costs.verify_cells, contexts, np.full(S, num_drafts + 1))
    if num_drafts:
        seconds += cells_s(costs.draft_cells, contexts, np.full(S, num_drafts))
        seconds += costs.sequence_s * S + cheapest(costs.draft_s, costs, S * num_drafts)
    return tokens / seconds


def best_fixed_rate(acceptances: np.ndarray, costs: Costs, context: int = 0) -> tuple[float, int]:
    """Return the largest `fixed_rate` of all lengths that fit, and that length."""
    S, K = acceptances.shape
    lengths = [k for k in range(K + 1) if S * (k + 1) <= costs.budgets[-1]]
    return max((fixed_rate(acceptances, costs, k, context), k) for k in lengths)


def cheapest(seconds: tuple[float, ...], costs: Costs, num_rows: int) -> float:
    """Seconds of the cheapest forward with room for these rows."""
    return min(s for s, budget in zip(seconds, costs.budgets, strict=True) if budget >= num_rows)


def cpu_costs() -> Costs:
    """Forwards as measured with a model of the demo's shape on 2 CPU threads: every row costs."""
    budgets = (8, 16, 32, 64, 96, 128, 256, 512)
    seconds = (0.9e-3, 1.1e-3, 1.5e-3, 2.1e-3, 2.9e-3, 3.7e-3, 6.9e-3, 13.5e-3)
    return Costs(budgets, seconds, seconds, step_s=0.2e-3)


def gpu_costs() -> Costs:
    """Forwards that read the weights anyhow: flat up to 200 rows, then linear."""
    budgets = (8, 16, 32, 64, 96, 128, 192, 256, 384, 512)
    seconds = tuple(5e-3 * max(1.0, budget / 200) * (1 + budget / 10_000) for budget in budgets)
    return Costs(budgets, seconds, seconds, step_s=0.3e-3)
