"""How many tokens a step emits, and where drafts stand."""

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from orthrus_core.engine.sequence import Completion


def acceptance(completions: Sequence[Completion]) -> dict[str, Any]:
    """Figures of a consensus run; all ratios leave out what the last forward of a prefill emits.

    Returns:
        `acceptance_length` and `tokens_per_forward` of all tokens together, so that long completions count
        for more, and `per_question`: the same two as means over the completions.
    """
    stats = [completion.stats for completion in completions]
    tokens, steps, forwards = (
        sum(getattr(row, name) for row in stats) for name in ("step_tokens", "steps", "forwards")
    )
    return {
        "completion_tokens": sum(row.completion_tokens for row in stats),
        "acceptance_length": tokens / steps if steps else None,
        "tokens_per_forward": tokens / forwards if forwards else None,
        "per_question": {
            "acceptance_length": _mean(row.acceptance_length for row in stats),
            "tokens_per_forward": _mean(row.tokens_per_forward for row in stats),
        },
        "finish_reasons": dict(Counter(completion.finish_reason for completion in completions)),
    }


def accepted_by_position(report: Mapping[str, Any]) -> list[float]:
    """For each draft position, the share accepted of all blocks that long, by an engine's report."""
    pairs = zip(report["accepted_by_position"], report["drafted_by_position"], strict=True)
    return [accepted / drafted if drafted else 0.0 for accepted, drafted in pairs]


def counts_since(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """An engine's report whose counts by position begin at an earlier report of it."""
    counts = ("accepted_by_position", "drafted_by_position")
    pairs = {name: zip_longest(now[name], before[name], fillvalue=0) for name in counts}
    return {**now, **{name: [new - old for new, old in pair] for name, pair in pairs.items()}}


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
