"""How much faster consensus decoding is than plain AR on rows of a run, measured in turns on its engine."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from orthrus_core.request import Request
from pipelines.generate.engine.thread import EngineThread

PAIRS = 3
SHARE = 0.02  # of the engine's working time so far
LEAST_S, MOST_S = 1.0, 30.0  # a short run pays a second all the same
LEAST_TOKENS = 16  # a ratio over shorter texts would say more of prompts than of decoding


@dataclass
class SpeedSample:
    """Paired runs of the same rows.

    Attributes:
        sequences: rows decoded side by side.
        max_tokens: most tokens of each, cut so that the measurement stays within its time.
        pairs: [tokens/s of consensus, tokens/s of plain AR] each.
    """

    sequences: int
    max_tokens: int
    pairs: list[list[float]] = field(default_factory=list)


async def time_pairs(
    engine: EngineThread, requests: Sequence[Request], *, busy_s: float, is_alone: Callable[[], bool]
) -> SpeedSample | None:
    """Decode rows in turns, consensus and plain AR, alone in an engine that has nothing else to do.

    Args:
        requests: the rows, at most as many as the engine has slots.
        busy_s: seconds that the engine has worked so far.
        is_alone: whether nobody else has work for the engine.
    Returns:
        Up to three pairs; None where not even one fits into the time, or other work came up.
    """
    _, report = await asyncio.wrap_future(engine.submit([]))
    budget_s = min(MOST_S, max(LEAST_S, SHARE * busy_s))
    limit = int(budget_s / (2 * plain_step_s(report, len(requests))))
    longest = max(request.params.max_new_tokens for request in requests)
    if limit < min(LEAST_TOKENS, longest):
        return None
    sample = SpeedSample(len(requests), min(limit, longest))
    spent_s = 0.0
    while len(sample.pairs) < PAIRS and spent_s * (1 + 1 / max(1, len(sample.pairs))) <= budget_s:
        runs = [
            await _timed(engine, [_limited(request, sample.max_tokens, drafts) for request in requests])
            for drafts in (True, False)
        ]
        spent_s += sum(seconds for _, seconds in runs)
        if not is_alone() or not all(tokens and seconds for tokens, seconds in runs):
            return None
        sample.pairs.append([tokens / seconds for tokens, seconds in runs])
    return sample


def plain_step_s(report: Mapping[str, Any], num_sequences: int) -> float:
    """Seconds of a plain AR step of so many sequences, as the engine measured at its start."""
    costs = zip(report["budgets"], report["verify_s"], strict=True)
    return max(1e-5, next((seconds for rows, seconds in costs if rows >= num_sequences), 0.0))


async def _timed(engine: EngineThread, requests: Sequence[Request]) -> tuple[int, float]:
    """Tokens of requests, and the seconds that the engine worked on them, prompts included."""
    _, before = await asyncio.wrap_future(engine.submit([], forget_prompts=True))
    completions, after = await asyncio.wrap_future(engine.submit(requests))
    return sum(len(one.token_ids) for one in completions), after["busy_s"] - before["busy_s"]


def _limited(request: Request, max_tokens: int, drafts: bool) -> Request:
    limit = min(request.params.max_new_tokens, max_tokens)
    return replace(request, drafts=drafts, params=request.params.model_copy(update={"max_new_tokens": limit}))
