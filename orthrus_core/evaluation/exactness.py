"""Does consensus decoding write what plain AR decoding writes?"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal

from orthrus_core.engine.config import EngineConfig
from orthrus_core.engine.sequence import Completion
from orthrus_core.errors import ConfigError
from orthrus_core.models.model import OrthrusLM
from orthrus_core.readiness.engine import Engine
from orthrus_core.request import SamplingParams

NAMED_DIFFERENCES = 5


@dataclass(frozen=True)
class Difference:
    """The first place where a row's two completions part.

    Attributes:
        row: number of the prompt, from 0.
        position: token of the completion, from 0; None when only numbers differ.
        consensus_id: token there, None when this completion has ended; likewise `ar_id`.
        ar_min_logit_gap: smallest top1-top2 gap of the AR completion; near-ties are below 1e-2 or so.
    """

    row: int
    position: int | None
    consensus_id: int | None
    ar_id: int | None
    ar_min_logit_gap: float | None


@dataclass(frozen=True)
class Comparison:
    """Rows of the two modes side by side.

    Attributes:
        rows: compared rows.
        errors: rows that one of the modes could not run; not compared.
        identical_tokens: rows with the same tokens and the same finish reason.
        identical_logprobs: those of them with the same bits in the sum of log-probabilities and the smallest
            logit gap.
        differences: the first rows that differ in tokens or numbers.
    """

    rows: int
    errors: int
    identical_tokens: int
    identical_logprobs: int
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class ModeRun:
    """All prompts through one engine.

    Attributes:
        completions: in the order of the prompts.
        report: the engine's own.
        seconds: of the decoding, the engine's start not counted.
    """

    completions: list[Completion]
    report: dict[str, Any]
    seconds: float


@dataclass(frozen=True)
class ModeComparison:
    """Both modes over the same prompts."""

    consensus: ModeRun
    autoregressive: ModeRun
    comparison: Comparison


def compare_modes(
    model: OrthrusLM, prompts: Sequence[Sequence[int]], *, params: SamplingParams, config: EngineConfig
) -> ModeComparison:
    """Decode prompts in both modes, in the model's dtype, and compare.

    Args:
        model: one model for both modes.
        prompts: token ids, one list for each row.
        config: everything but the mode; both engines run forwards of the same `token_budget`.
    Raises:
        ConfigError: no prompts, or a config that does not fit the model.
    """
    if not prompts:
        raise ConfigError("exactness needs at least one prompt, got none")
    consensus = run_mode(model, prompts, "consensus", params=params, config=config)
    autoregressive = run_mode(model, prompts, "autoregressive", params=params, config=config)
    comparison = compare_completions(consensus.completions, autoregressive.completions)
    return ModeComparison(consensus, autoregressive, comparison)


def run_mode(
    model: OrthrusLM,
    prompts: Sequence[Sequence[int]],
    mode: Literal["consensus", "autoregressive"],
    *,
    params: SamplingParams,
    config: EngineConfig,
) -> ModeRun:
    """Decode prompts with an engine of their own."""
    engine = Engine(model, config.model_copy(update={"mode": mode}))
    started_at = time.perf_counter()
    completions = engine.generate(prompts, params)
    return ModeRun(completions, engine.report(), time.perf_counter() - started_at)


def compare_completions(consensus: Sequence[Completion], autoregressive: Sequence[Completion]) -> Comparison:
    """Compare row by row; the same prompts in the same order on both sides."""
    pairs = [
        (row, ours, ar)
        for row, (ours, ar) in enumerate(zip(consensus, autoregressive, strict=True))
        if ours.error is None and ar.error is None
    ]
    same_tokens = [_same_tokens(ours, ar) for _, ours, ar in pairs]
    same_numbers = [
        tokens and _same_numbers(ours, ar) for tokens, (_, ours, ar) in zip(same_tokens, pairs, strict=True)
    ]
    unlike = [pair for pair, same in zip(pairs, same_numbers, strict=True) if not same]
    return Comparison(
        rows=len(pairs),
        errors=len(consensus) - len(pairs),
        identical_tokens=sum(same_tokens),
        identical_logprobs=sum(same_numbers),
        differences=tuple(_difference(*pair) for pair in unlike[:NAMED_DIFFERENCES]),
    )


def _same_tokens(ours: Completion, ar: Completion) -> bool:
    return ours.token_ids == ar.token_ids and ours.finish_reason == ar.finish_reason


def _same_numbers(ours: Completion, ar: Completion) -> bool:
    """Whether the sums agree to the last bit.

    They add float32 values in float64, exactly, so that the grouping into steps plays no part.
    """
    return (ours.stats.logprob, ours.stats.min_logit_gap) == (ar.stats.logprob, ar.stats.min_logit_gap)


def _difference(row: int, ours: Completion, ar: Completion) -> Difference:
    gap = ar.stats.min_logit_gap
    for position, (our_id, ar_id) in enumerate(zip_longest(ours.token_ids, ar.token_ids)):
        if our_id != ar_id:
            return Difference(row, position, our_id, ar_id, gap)
    return Difference(row, None, None, None, gap)
