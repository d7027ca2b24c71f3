"""Stand-ins for the engine, for tests of what is around it."""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from orthrus_core.engine.sequence import Completion
from orthrus_core.engine.stats import CompletionStats
from orthrus_core.request import Request

TOKENS_PER_STEP = 4


def fake_completion(
    prompt_ids: Sequence[int],
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    seed: int = 0,
    sample: int = 0,
) -> list[int]:
    """The tokens that FakeEngine writes: a function of prompt and options, within the demo's vocabulary.

    Only with a temperature do seed and sample matter, as in the real engine.
    """
    number = sum(prompt_ids)
    if temperature > 0:
        number += 3 * seed + 101 * sample + round(1000 * temperature)
    length = 1 + number % max_new_tokens
    return [300 + (7 * number + 13 * place) % 700 for place in range(length)]


@dataclass
class _Running:
    request_id: int
    request: Request
    token_ids: list[int]
    steps: int = 0

    @property
    def is_finished(self) -> bool:
        per_step = TOKENS_PER_STEP if self.request.drafts else 1
        return self.steps * per_step >= len(self.token_ids)


@dataclass
class FakeEngine:
    """An engine without a model: a few sequences at a time, four tokens a step, always the same text.

    Attributes:
        fail_at_step: the step that raises, from 1; 0: none.
        poison: prompt ids that contain it come back with an error, as with logits that are NaN; -1: none do.
        wrong_below: requests without drafts get another last token where their first prompt token is below.
    """

    max_sequences: int = 4
    fail_at_step: int = 0
    poison: int = -1
    exactness: str = "exact"
    wrong_below: int = 0
    waiting: deque = field(default_factory=deque)
    running: list[_Running] = field(default_factory=list)
    steps: int = 0
    submitted: int = 0
    busy_s: float = 0.0

    def submit(self, request: Request) -> int:
        """Queue a request."""
        self.submitted += 1
        params = request.params
        tokens = fake_completion(
            request.prompt_ids,
            params.max_new_tokens,
            temperature=params.temperature,
            seed=params.seed,
            sample=request.sample,
        )
        if not request.drafts and request.prompt_ids[0] < self.wrong_below:
            tokens[-1] += 1
        self.waiting.append(_Running(self.submitted, request, tokens))
        return self.submitted

    @property
    def has_work(self) -> bool:
        """Whether anything waits or runs."""
        return bool(self.waiting or self.running)

    def step(self) -> list[Completion]:
        """Four tokens more for everything that runs."""
        started_at = time.perf_counter()
        self.steps += 1
        if self.steps == self.fail_at_step:
            raise RuntimeError("device-side assert triggered")
        while self.waiting and len(self.running) < self.max_sequences:
            ordinary = (row for row in self.waiting if row.request.drafts)
            self.running.append(next(ordinary, self.waiting[0]))
            self.waiting.remove(self.running[-1])
        for row in self.running:
            row.steps += 1
        finished = [row for row in self.running if row.is_finished]
        self.running = [row for row in self.running if not row.is_finished]
        self.busy_s += time.perf_counter() - started_at
        return [_fail(row) if self.poison in row.request.prompt_ids else _complete(row) for row in finished]

    def forget_prompts(self) -> None:
        """No prompt is remembered."""

    def report(self) -> dict[str, Any]:
        """The figures that the pipeline reads."""
        return {
            "mode": "consensus",
            "exactness": self.exactness,
            "token_budget": 64,
            "budgets": [16, 64],
            "draft_s": [0.001, 0.002],
            "verify_s": [0.001, 0.002],
            "attention": "native",
            "linear": "native",
            "compiled": False,
            "block_size": 8,
            "page_size": 16,
            "num_pages": 9,
            "dtype": "float32",
            "device": "cpu",
            "busy_s": self.busy_s,
            "accepted_by_position": [3, 2, 1],
            "drafted_by_position": [4, 4, 4],
        }


def _complete(row: _Running) -> Completion:
    stats = CompletionStats(
        prompt_tokens=len(row.request.prompt_ids),
        completion_tokens=len(row.token_ids),
        steps=row.steps,
        forwards=2 * row.steps,
        drafted=8 * row.steps,
        accepted=len(row.token_ids) - row.steps,
        step_tokens=len(row.token_ids),
        min_logit_gap=0.5,
        logprob=-0.25 * len(row.token_ids),
    )
    logprobs = [-0.25] * len(row.token_ids) if row.request.params.logprobs else None
    return Completion(row.request_id, row.token_ids, "length", None, stats, logprobs=logprobs)


def _fail(row: _Running) -> Completion:
    stats = CompletionStats(prompt_tokens=len(row.request.prompt_ids))
    return Completion(row.request_id, [], "error", "logits at position 3 are NaN", stats)


def fake_engine(spec: Any) -> FakeEngine:
    """Engine factory of the actor."""
    return FakeEngine(max_sequences=spec.decode.max_sequences)


def disagreeing_engine(spec: Any) -> FakeEngine:
    """Engine factory of an actor whose engine says exact, and writes other text without drafts."""
    return FakeEngine(max_sequences=spec.decode.max_sequences, wrong_below=10**6)


def unverified_engine(spec: Any) -> FakeEngine:
    """The same, of an engine that promises nothing."""
    return FakeEngine(max_sequences=spec.decode.max_sequences, wrong_below=10**6, exactness="unverified")


def broken_engine(spec: Any) -> FakeEngine:
    """Engine factory of an actor whose engine breaks at its third step."""
    return FakeEngine(fail_at_step=3)


def refused_engine(spec: Any) -> FakeEngine:
    """Engine factory of an actor whose checkpoint is refused."""
    from orthrus_core.errors import CheckpointError

    raise CheckpointError("model.layers.0.self_attn.q_proj_diff.weight is missing")
