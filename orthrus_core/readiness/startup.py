"""What an engine finds out before its first step: its kernels, which budgets agree, what forwards cost."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from orthrus_core.costs import Costs
from orthrus_core.engine.config import EngineConfig
from orthrus_core.engine.runner import KINDS, ModelRunner
from orthrus_core.linear.backend import LinearBackend
from orthrus_core.linear.choose import linear_backends
from orthrus_core.models.linears import knows_rows
from orthrus_core.models.model import OrthrusLM
from orthrus_core.readiness.both_views import any_split, both_views_agree
from orthrus_core.readiness.calibration import (
    ForwardCosts,
    measure_alike,
    measure_both,
    measure_forwards,
    measure_head,
)
from orthrus_core.readiness.compilation import compile_forwards, should_compile
from orthrus_core.readiness.ladder import (
    FINE_FROM,
    candidate_budgets,
    most_choosing,
    seconds_per_row,
)
from orthrus_core.readiness.linear import MARGIN, by_speed
from orthrus_core.readiness.memory import token_budget
from orthrus_core.readiness.selfcheck import Exactness, check_exactness

HOST_STEP_S = 0.25e-3  # planning, laying out and committing a step (measured: CPU, demo model), and
HOST_SEQUENCE_S = 8e-6  # each of its sequences
HOST_DRAFT_S = 0.6e-3  # placing, accepting and learning from drafts, beside the draft forward

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Readiness:
    """The outcome.

    Attributes:
        exactness: "exact" when permuted token rows agreed bit for bit, else "unverified".
        costs: of the budgets that forwards may have.
        linear: name of the backend of linear layers.
        digest: of the bits of some logits, see `Check`.
    """

    exactness: Exactness
    costs: Costs
    linear: str = "plain"
    digest: str = ""


def get_ready(runner: ModelRunner, config: EngineConfig) -> Readiness:
    """Choose kernels, T where the config names none, check the ladder below it and measure its rungs.

    The budgets to try do not depend on the mode, so that both modes may run the same.

    Args:
        runner: idle, not compiled yet; its page tables are empty, and empty again afterwards.
    Raises:
        ConfigError: linear layers as the config wants them cannot be had.
    """
    started_at = time.perf_counter()
    device_type = runner.device.type
    T = token_budget(runner.model.config, config, device_type)
    budgets = config.budgets or (candidate_budgets(T, device_type) if config.self_check else (T,))
    most_drafts = config.most_drafts(runner.model.config)
    backends = linear_backends(config.linear, dtype=runner.model.dtype, device_type=device_type)
    if not config.self_check:
        _install(runner, runner.model, backends[0], config)
        if len(budgets) == 1:
            return Readiness("unverified", Costs.unmeasured(budgets[0]), backends[0].name)
        outcome = _Outcome(backends[0], "unverified", budgets, measure_forwards(runner, budgets, "ar"))
    else:
        outcome = _best_outcome(runner, config, backends, budgets, most_drafts=most_drafts)
    verify = draft = outcome.costs
    R = most_choosing(outcome.budgets, max_sequences=config.max_sequences, most_drafts=most_drafts)
    choosing = tuple(budget for budget in outcome.budgets if budget <= R)
    drafts = config.uses_head(runner.model.config)
    if drafts and runner.device.type == "cpu":
        draft = measure_alike(runner, verify, choosing, "diffusion")
    elif drafts:  # every rung's graph is captured on the way
        draft = measure_forwards(runner, choosing, "diffusion")
    head_s = measure_head(runner, choosing)
    draft_s = [HOST_DRAFT_S + layers + head for layers, head in zip(draft.rung_s, head_s, strict=False)]
    both_s = None
    if drafts and outcome.exactness == "exact" and both_views_agree(runner, choosing):
        both_s = measure_both(runner, choosing)
    logger.info(
        "engine ready exactness=%s linear=%s seconds=%.1f",
        *(outcome.exactness, outcome.backend.name, time.perf_counter() - started_at),
    )
    costs = Costs(
        outcome.budgets,
        (*draft_s, *draft_s[-1:] * (len(outcome.budgets) - len(choosing))),  # none is so large
        verify.rung_s,
        draft.cells,
        verify.cells,
        HOST_STEP_S,
        HOST_SEQUENCE_S,
        head_s=head_s,
        most_choosing=R,
        both_s=both_s,
        any_split=any_split(runner),
    )
    return Readiness(outcome.exactness, costs, outcome.backend.name, outcome.digest)


@dataclass(frozen=True)
class _Outcome:
    """What the check says about one backend of linear layers.

    Attributes:
        budgets: that agree.
        costs: of their AR forwards.
        digest: see `Check`.
    """

    backend: LinearBackend
    exactness: Exactness
    budgets: tuple[int, ...]
    costs: ForwardCosts
    digest: str = ""

    def rank(self, demands: Sequence[int], place: int) -> tuple[bool, float]:
        """Exact ones first, then by what a row costs; backends come in order of preference."""
        seconds = dict(zip(self.budgets, self.costs.rung_s, strict=True))
        return self.exactness != "exact", seconds_per_row(self.budgets, seconds, demands) * MARGIN**place


def _best_outcome(
    runner: ModelRunner,
    config: EngineConfig,
    backends: Sequence[LinearBackend],
    budgets: tuple[int, ...],
    *,
    most_drafts: int,
) -> _Outcome:
    """Try backends, the fastest first, until all budgets of one agree; leave the best installed.

    A few rows alone may compute otherwise, as products of mixtures of experts do: no reason to look further.
    """
    model, outcomes = runner.model, []
    needed = {budget for budget in budgets if budget >= FINE_FROM} or set(budgets)
    for backend in by_speed(runner, backends, budgets):
        _install(runner, model, backend, config)
        outcomes.append(_try(runner, config, backend, budgets, most_drafts=most_drafts))
        if outcomes[-1].exactness == "exact" and needed <= set(outcomes[-1].budgets):
            break
    best = min(outcomes, key=lambda outcome: outcome.rank(budgets, backends.index(outcome.backend)))
    if best is not outcomes[-1]:
        _install(runner, model, best.backend, config)
    return best


def _try(
    runner: ModelRunner,
    config: EngineConfig,
    backend: LinearBackend,
    budgets: tuple[int, ...],
    *,
    most_drafts: int,
) -> _Outcome:
    logger.info("measuring forwards of budgets=%s linear=%s", budgets, backend.name)
    costs = measure_forwards(runner, budgets, "ar")
    logger.info("checking that budgets=%s agree bit for bit", budgets)
    seconds = dict(zip(budgets, costs.rung_s, strict=True))
    R = most_choosing(budgets, max_sequences=config.max_sequences, most_drafts=most_drafts)
    check = check_exactness(
        runner,
        seconds,
        least=config.max_sequences,
        most_choosing=R,
        knows_rows=knows_rows(runner.model),
    )
    rung_s = tuple(seconds[T] for T in check.budgets)
    return _Outcome(backend, check.exactness, check.budgets, replace(costs, rung_s=rung_s), check.digest)


def _install(runner: ModelRunner, model: OrthrusLM, backend: LinearBackend, config: EngineConfig) -> None:
    """Put linear layers into the runner's model, and compile its forwards where that pays."""
    runner.use(model, backend)
    num_layers = model.config.num_hidden_layers
    if should_compile(config, device_type=runner.device.type, num_layers=num_layers):
        compile_forwards(runner, KINDS if config.uses_head(model.config) else ("ar",))
