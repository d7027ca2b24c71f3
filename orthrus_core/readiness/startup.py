"""What an engine finds out before its first step: which budgets agree bit for bit, and what forwards cost."""

import logging
import time
from dataclasses import dataclass

from orthrus_core.costs import Costs
from orthrus_core.engine.config import EngineConfig
from orthrus_core.engine.runner import ModelRunner
from orthrus_core.readiness.calibration import measure_forwards
from orthrus_core.readiness.ladder import candidate_budgets, choose_token_budget
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
    """

    exactness: Exactness
    costs: Costs


def get_ready(runner: ModelRunner, config: EngineConfig, *, head_block_size: int) -> Readiness:
    """Choose T where the config names none, check the ladder below it and measure its rungs.

    The budgets do not depend on the mode, so that both modes may run the same.

    Args:
        runner: idle, compiled if it is to be; its page tables are empty, and empty again afterwards.
        head_block_size: the head's own.
    """
    started_at = time.perf_counter()
    exactness: Exactness = "unverified"
    budgets = config.budgets or _budgets_to_try(config, runner.device.type, head_block_size)
    if config.self_check:
        logger.info("checking that budgets=%s agree bit for bit", budgets)
        exactness, budgets = check_exactness(runner, budgets, least=config.max_sequences)
    if len(budgets) == 1 and not config.self_check:
        return Readiness(exactness, Costs.unmeasured(budgets[0]))
    logger.info("measuring forwards of budgets=%s", budgets)
    verify = draft = measure_forwards(runner, budgets, "ar")
    if config.mode == "consensus":
        draft = measure_forwards(runner, budgets, "diffusion")
    logger.info("engine ready exactness=%s seconds=%.1f", exactness, time.perf_counter() - started_at)
    costs = Costs(
        budgets,
        tuple(seconds + HOST_DRAFT_S for seconds in draft.rung_s),
        verify.rung_s,
        draft.cells,
        verify.cells,
        HOST_STEP_S,
        HOST_SEQUENCE_S,
    )
    return Readiness(exactness, costs)


def _budgets_to_try(config: EngineConfig, device_type: str, head_block_size: int) -> tuple[int, ...]:
    """Return the ladder below T, or T alone where nothing is checked."""
    T = config.token_budget or choose_token_budget(
        max_sequences=config.max_sequences,
        block_size=config.block_size or head_block_size,
        device_type=device_type,
    )
    return candidate_budgets(T, device_type) if config.self_check else (T,)
