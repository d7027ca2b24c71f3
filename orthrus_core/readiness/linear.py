"""Which linear layers to try first."""

from collections.abc import Sequence

from orthrus_core.engine.runner import ModelRunner
from orthrus_core.linear.backend import LinearBackend
from orthrus_core.readiness.calibration import measure_rungs
from orthrus_core.readiness.ladder import seconds_per_row

TIMED = {"cuda"}  # where torch may be the faster one
MARGIN = 1.5  # by which a later backend must be faster, so that all engines of a run choose the same
ROUNDS = 2  # in which backends take turns, so that they meet the same load; the faster counts


def by_speed(
    runner: ModelRunner, backends: Sequence[LinearBackend], budgets: Sequence[int]
) -> list[LinearBackend]:
    """Return the backends, the fastest first, by AR forwards of the smallest and of a middle budget.

    On devices that are not in TIMED the order stays: a clock would let two engines choose otherwise.

    Args:
        runner: idle, of the model as it was loaded; afterwards it runs the last of the backends.
        backends: those to prefer first.
        budgets: ascending.
    """
    if len(backends) == 1 or runner.device.type not in TIMED:
        return list(backends)
    model, rungs = runner.model, sorted({budgets[0], budgets[len(budgets) // 2]})
    taken = dict.fromkeys((backend.name for backend in backends), float("inf"))
    for place, backend in [*enumerate(backends)] * ROUNDS:
        runner.use(model, backend)
        seconds = dict(zip(rungs, measure_rungs(runner, rungs, "ar"), strict=True))
        per_row = seconds_per_row(rungs, seconds, rungs) * MARGIN**place
        taken[backend.name] = min(taken[backend.name], per_row)
    return sorted(backends, key=lambda backend: taken[backend.name])
