"""The model of an actor: whole, or shared with the ranks that it leads."""

import logging
import os
import time
from typing import Any

from pipelines.checkpoint.directory import fetch
from pipelines.generate.decode.spec import ActorSpec
from pipelines.generate.engine.ranks import Share, load_shared

LAST_STEP_S = 5.0  # in which a step that waits for a lost rank fails by itself, and says more

logger = logging.getLogger(__name__)


def load_actor_model(spec: ActorSpec) -> Any:
    """Load the model, on the actor's device or devices.

    Raises:
        ConfigError: a checkpoint that does not fit.
        EngineError: a rank ended at its start.
    """
    import torch

    import orthrus_core
    from orthrus_core.readiness.drafter import quantise_on_trial

    if spec.tensor_parallel > 1:
        share = Share(
            directory=fetch(spec.checkpoint),
            dtype=spec.dtype,
            device_type=spec.device,
            needs_head=spec.decode.needs_head,
            threads=max(1, spec.threads // spec.tensor_parallel),
            size=spec.tensor_parallel,
        )
        return load_shared(share, lambda reason: _end_process(spec, reason))
    torch.set_num_threads(spec.threads)  # Ray sets OMP_NUM_THREADS=1 for actors with less than 2 CPUs
    model = orthrus_core.load_model(
        fetch(spec.checkpoint),
        dtype=spec.dtype if spec.dtype == "auto" else getattr(torch, spec.dtype),
        device=spec.device if spec.weights == "auto" else "cpu",
        needs_head=spec.decode.needs_head,
        lora=None if spec.adapter is None else fetch(spec.adapter),
    )
    if spec.weights == "auto":
        return model
    return quantise_on_trial(
        model,
        spec.weights,
        output_head=spec.quantise_output_head,
        device=spec.device,
        prompts=spec.trial_prompts,
        memory=spec.decode.memory,
    )


def _end_process(spec: ActorSpec, reason: str) -> None:
    """An engine that lost a rank cannot go on: end, so that Ray starts a new actor."""
    time.sleep(LAST_STEP_S)
    logger.error("engine_broken %s", reason)
    try:
        spec.failures.write("engine", f"{reason}\n")
    finally:
        os._exit(1)
