"""Tokens per second over a run, from the times of its units."""

from collections.abc import Sequence
from typing import Any

from pipelines.generate.write.sums import UnitTime

MOST_BINS = 120
LEAST_BINS = 6


def speed_over_time(times: Sequence[UnitTime]) -> dict[str, Any]:
    """Share every unit's tokens out over the time in which they were made.

    A unit's tokens count as made evenly between the unit before it on the same actor and its own end. The
    time between sessions (a run that was stopped and went on later) is left out.

    Returns:
        bin_s; tokens_per_s of each bin; sessions: second at which each one starts, from 0; or {} without
        times.
    """
    if not times:
        return {}
    sessions = sorted({one.session for one in times})
    ends = {start: max(one.at for one in times if one.session == start) for start in sessions}
    offsets, total_s = {}, 0.0
    for start in sessions:
        offsets[start] = total_s - start
        total_s += max(1e-3, ends[start] - start)
    num_bins = max(LEAST_BINS, min(MOST_BINS, len(times) // 3))
    bin_s = total_s / num_bins
    tokens = [0.0] * num_bins
    for one in times:
        offset = offsets[one.session]
        began = max(one.began, one.session)
        at = max(one.at, began)  # clocks of other machines may be behind the driver's
        _spread(tokens, (began + offset) / bin_s, (at + offset) / bin_s, one.tokens)
    return {
        "bin_s": bin_s,
        "tokens_per_s": [count / bin_s for count in tokens],
        "sessions": [start + offsets[start] for start in sessions],
    }


def _spread(bins: list[float], start: float, end: float, amount: float) -> None:
    """Add an amount evenly to the bins between two places, in place."""
    last = len(bins) - 1
    if end - start < 1e-9:
        bins[min(last, int(end))] += amount
        return
    for index in range(int(start), min(last, int(end)) + 1):
        right = end if index == last else min(end, index + 1)
        bins[index] += amount * max(0.0, right - max(start, index)) / (end - start)
