"""The evaluate job's scale: peak memory of both modes."""

import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from orthrus_core.evaluation.memory import decode_and_weigh, in_fresh_process
from pipelines.checkpoint.directory import Checkpoint, fetch
from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.prompts import PromptSet
from pipelines.evaluate.speed import AR, CONSENSUS, check_room, engine_config, token_budgets

logger = logging.getLogger(__name__)


def weigh_modes(
    config: EvaluateConfig, checkpoint: Checkpoint, prompt_sets: Mapping[str, PromptSet], device: str
) -> dict[str, Any]:
    """Complete the same prompts in either mode, each in a process of its own, T the same.

    Returns:
        `modes`: peaks and cache of consensus and of AR, in bytes.
    """
    assert config.memory is not None
    load = config.memory.load
    prompts = check_room(config, prompt_sets[config.memory.prompt_set])[: load.rows]
    path = fetch(checkpoint)
    modes = []
    for name in (CONSENSUS, AR):
        logger.info("weighing mode=%s rows=%d", name, len(prompts))
        budget = token_budgets(load)[CONSENSUS]
        engine = engine_config(config, name, max_sequences=load.batch, token_budget=budget)
        memory = in_fresh_process(
            decode_and_weigh,
            path,
            prompts,
            dtype=config.model.dtype,
            device=device,
            threads=torch.get_num_threads(),
            params=config.sampling,
            config=engine,
        )
        modes.append(asdict(memory))
    return {"batch": load.batch, "rows": len(prompts), "modes": modes}
