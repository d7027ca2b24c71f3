"""Whether a diffusion head still drafts well where weights became bytes: a trial on a few prompts."""

import gc
import logging
from collections.abc import Sequence
from typing import Any

import torch

from orthrus_core.engine.config import EngineConfig
from orthrus_core.models.weights import Weights, quantise
from orthrus_core.readiness.device_memory import device_memory
from orthrus_core.readiness.engine import Engine
from orthrus_core.readiness.memory import model_bytes
from orthrus_core.request import SamplingParams

PROMPT_TOKENS, NEW_TOKENS = 128, 32  # the last ones of a prompt, and those that follow
KEPT = 0.5  # share of accepted drafts below which the head is called dead

logger = logging.getLogger(__name__)


def quantise_on_trial(
    model: Any,
    weights: Weights,
    *,
    output_head: bool,
    device: str,
    prompts: Sequence[Sequence[int]],
    memory: float = 1.0,
) -> Any:
    """Quantise a model and move it; one line says how its drafts stand before and after, and warns if badly.

    Args:
        model: on the CPU, as loaded; it is changed.
        weights: see `quantise`, as `output_head`.
        prompts: token ids of a few; none, no trained head, or no room for the whole model on the device: no
            trial.
        memory: share of the device's memory that may be filled.
    Returns:
        The model on the device.
    """
    room = device_memory(torch.device(device))
    if not (prompts and model.config.has_head and room and sum(model_bytes(model)) < room.left(memory)):
        quantise(model, weights, output_head=output_head)
        return model.to(device)
    before = _tokens_per_step(model.to(device), prompts)
    quantise(model.to("cpu"), weights, output_head=output_head)  # a device would be left in fragments
    after = _tokens_per_step(model.to(device), prompts)
    logger.info("drafts weights=%s tokens_per_step=%.2f unquantised=%.2f", weights, after, before)
    if after - 1 < KEPT * (before - 1):
        logger.warning(
            "weights=%s: drafts emit %.2f tokens per step, %.2f without (the text is not affected): leave "
            "model.weights at auto, or train a head on the quantised model's own text",
            *(weights, after, before),
        )
    return model


def _tokens_per_step(model: Any, prompts: Sequence[Sequence[int]]) -> float:
    """Tokens that a step emits of a sequence, all of them drafting whole blocks; plain AR has 1."""
    room = max(1, model.config.max_position_embeddings - NEW_TOKENS)
    ends = [list(prompt[-min(PROMPT_TOKENS, room) :]) for prompt in prompts]
    config = EngineConfig(
        block_policy="fixed",
        token_budget=len(ends) * (model.config.block_size + 1),
        max_sequences=len(ends),
        max_context=max(map(len, ends)) + NEW_TOKENS,
        self_check=False,
        compile="off",
    )
    engine = Engine(model, config)
    engine.generate(ends, SamplingParams(max_new_tokens=NEW_TOKENS))
    found = engine.stats.acceptance_length or 1.0
    del engine
    gc.collect()
    if model.device.type == "cuda":
        torch.cuda.empty_cache()  # what is cached counts as taken where the next engine looks
    return found
