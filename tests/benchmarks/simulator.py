"""A virtual clock for the real scheduler: no model, known acceptance, known costs."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from orthrus_core.cache import PagePool, PageTables
from orthrus_core.costs import CellCosts, Costs
from orthrus_core.engine.blocks import Lookup
from orthrus_core.engine.config import EngineConfig
from orthrus_core.engine.layout import StepLayout
from orthrus_core.engine.scheduler import Scheduler
from orthrus_core.engine.sequence import Sequence
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


class Simulation:
    """Runs jobs through a scheduler; a draft stands when a number drawn for (job, token) allows it.

    The numbers depend on the seed alone, so two policies see the same luck.

    Attributes:
        clock_s: seconds of all steps so far.
        tokens: emitted.
        expected_tokens: `tokens` as the true acceptance has it, without the luck of the draws.
        draft_forwards: steps with a draft forward.
        steps: all steps.
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
        lookup: Lookup | None = None,
    ):
        """Args: believed: costs that the scheduler goes by; None: `costs`, which the clock runs by.

        `lookup` offers drafts, which stand as those of blocks do.
        """
        self.jobs = list(jobs)
        self.costs = costs
        self.clock_s = self.expected_tokens = 0.0
        self.tokens = self.draft_forwards = self.steps = 0
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
        tables = PageTables(pool, num_slots=max_sequences, pages_per_sequence=config.pages_per_sequence)
        known = believed or costs
        policy = new_policy(config, known, block_size=block_size)
        self.scheduler = Scheduler(
            config, tables, block_size=block_size, costs=known, policy=policy, lookup=lookup
        )
        depth = block_size if lookup is None else max(len(job.acceptance) for job in self.jobs)
        for index, job in enumerate(self.jobs):
            params = SamplingParams(max_new_tokens=job.max_new_tokens, ignore_eos=True)
            # prompts without a common beginning
            self.scheduler.add(Sequence(index, [index] * job.prompt_tokens, params, frozenset(), None))
        random = np.random.default_rng(seed)
        most = max(job.completion_tokens for job in self.jobs) + depth + 1
        self._luck = random.random((len(self.jobs), most))
        self._acceptance = np.array(
            [(job.acceptance[:depth], (job.then or job.acceptance)[:depth]) for job in self.jobs]
        )
        self._survival = np.cumprod(self._acceptance, axis=2)
        self._turns_at = np.array([most if job.turns_at is None else job.turns_at for job in self.jobs])

    def run(self, max_steps: int | None = None) -> "Simulation":
        """Step until all jobs ended, or `max_steps` times."""
        while self.scheduler.num_sequences and self.steps != max_steps:
            self.step()
        return self

    def step(self) -> StepLayout:
        """Plan a step, draw its outcome and let the clock run."""
        step = self.scheduler.plan()
        assert step.works, "the scheduler makes no progress"
        assert len(step.target_rows) <= step.draft_budget <= self.costs.budgets[-1]
        assert step.num_verify_rows <= step.verify_budget <= self.costs.budgets[-1]
        accepted = self._accept(step)
        started_s = self.clock_s
        self._count(step)
        self.scheduler.observe(step, accepted, seconds=self.clock_s - started_s)
        self._commit(step, accepted.tolist())
        return step

    def _accept(self, step: StepLayout) -> np.ndarray:
        """Return (S,) accepted drafts of each work."""
        jobs = np.array([work.sequence.request_id for work in step.works])
        emitted = np.array([work.sequence.num_emitted for work in step.works])
        positions = np.arange(self._acceptance.shape[2])
        has_turned = (emitted >= self._turns_at[jobs]).astype(int)
        self._expected = self._survival[jobs, has_turned]
        agrees = self._luck[jobs[:, None], emitted[:, None] + positions] < self._acceptance[jobs, has_turned]
        agrees &= positions < step.num_drafts[:, None]
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
            sequence.num_committed += emitted
            self.tokens += emitted
            if emitted == left:
                self.scheduler.finish(sequence)

    def _count(self, step: StepLayout) -> None:
        costs = self.costs
        contexts = np.array([work.sequence.num_committed for work in step.works])
        verify_rows = np.array([work.num_verify_rows for work in step.works])
        self.steps += 1
        self.clock_s += cells_s(costs.verify_cells, contexts, verify_rows)
        self.clock_s += cells_s(costs.draft_cells, contexts, step.num_draft_rows)
        self.clock_s += costs.step_s + costs.verify_s[costs.budgets.index(step.verify_budget)]
        self.clock_s += costs.sequence_s * len(step.works)
        if step.draft_budget:
            self.draft_forwards += 1
            self.clock_s += costs.draft_s[costs.budgets.index(step.draft_budget)]
            self.clock_s += costs.sequence_s * np.count_nonzero(step.num_draft_rows)
        is_drafted = np.arange(self._expected.shape[1]) < step.num_drafts[:, None]
        self.expected_tokens += sum(work.has_anchor for work in step.works)
        self.expected_tokens += float((self._expected * is_drafted).sum())


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
