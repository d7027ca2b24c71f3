"""Paired timing: several ways to complete the same prompts, in one process, taking turns."""

import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

logger = logging.getLogger(__name__)

Prompts = Sequence[Sequence[int]]
Outputs = list[list[int]]


@dataclass(frozen=True)
class Measured:
    """The result of work that timed itself, where part of a call is not the system's: a pipe to a process."""

    outputs: Outputs
    seconds: float


Work = Callable[[], Outputs | Measured]
System = Callable[[Prompts], Work]
"""Gets ready for prompts (not timed) and returns the work (timed), whose result is the emitted tokens."""


@dataclass(frozen=True)
class Spread:
    """One figure over all rounds."""

    median: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class Timing:
    """What one system did.

    Attributes:
        seconds: of each round.
        tokens: emitted in each round; padding is none.
        outputs: emitted tokens of each prompt in the first round.
    """

    seconds: tuple[float, ...]
    tokens: tuple[int, ...]
    outputs: Outputs

    @property
    def rates(self) -> tuple[float, ...]:
        """Tokens per second of each round."""
        return tuple(count / seconds for count, seconds in zip(self.tokens, self.seconds, strict=True))

    @property
    def tokens_per_s(self) -> Spread:
        """Tokens per second over the rounds."""
        return spread(self.rates)

    def ratio_to(self, other: "Timing") -> Spread:
        """How many times as fast as another system, round by round, since a machine's speed drifts."""
        return spread([mine / its for mine, its in zip(self.rates, other.rates, strict=True)])


def spread(values: Sequence[float]) -> Spread:
    """Median, lowest and highest of at least one value."""
    return Spread(statistics.median(values), min(values), max(values))


def rows_in_common(outputs: Outputs, others: Outputs) -> int:
    """Count the prompts for which two systems emitted the same tokens."""
    return sum(mine == its for mine, its in zip(outputs, others, strict=True))


def time_systems(
    systems: Mapping[str, System],
    prompts: Prompts,
    *,
    rounds: int,
    warm_up_rows: int,
    pause_s: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Timing]:
    """Time every system over the same prompts, once each round, the order rotated by one from round to round.

    Args:
        systems: by name.
        prompts: at least one.
        rounds: at least 1.
        warm_up_rows: prompts that each system completes first, not timed.
        pause_s: before each turn, so that the threads of the last one are at rest.
        clock, sleep: seconds, for tests.
    """
    for system in systems.values():
        system(prompts[:warm_up_rows])()
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    outputs: dict[str, list[Outputs]] = {name: [] for name in systems}
    names = list(systems)
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            work = systems[name](prompts)
            sleep(pause_s)
            measured = _measure(work, clock)
            outputs[name].append(measured.outputs)
            seconds[name].append(measured.seconds)
        logger.info("timed round=%d of=%d seconds=%s", turn + 1, rounds, _last(seconds))
    return {name: _timing(seconds[name], outputs[name]) for name in names}


def _measure(work: Work, clock: Callable[[], float]) -> Measured:
    started_at = clock()
    result = work()
    return result if isinstance(result, Measured) else Measured(result, clock() - started_at)


def _timing(seconds: list[float], outputs: list[Outputs]) -> Timing:
    return Timing(tuple(seconds), tuple(sum(map(len, rows)) for rows in outputs), outputs[0])


def _last(seconds: Mapping[str, list[float]]) -> str:
    return ",".join(f"{name}:{values[-1]:.2f}" for name, values in seconds.items())
