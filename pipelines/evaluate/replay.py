"""The evaluate job's clock on random weights, with drafts that stand at a set rate."""

import logging
from typing import Any

from orthrus_core.evaluation.random_model import random_model, random_prompts
from orthrus_core.evaluation.replay import Replay
from orthrus_core.evaluation.speed import Measured, Outputs, Prompts, time_systems
from orthrus_core.evaluation.systems import EngineSystem
from orthrus_core.models.model import OrthrusLM
from orthrus_core.request import SamplingParams
from pipelines.evaluate.acceptance import acceptance
from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.speed import AR, CONSENSUS, engine_config, figures, per_question_ratio, token_budgets
from pipelines.evaluate.speed_config import LoadConfig

logger = logging.getLogger(__name__)


def time_replay(config: EvaluateConfig, device: str) -> dict[str, Any]:
    """Time both modes under every load of the replay section, in FP32.

    Returns:
        `loads`: as those of the speed section, each with the acceptance length that came out.
    """
    replay = config.replay
    assert replay is not None
    context = replay.prompt_tokens + replay.new_tokens
    model = random_model(replay.shape, block_size=replay.block_size, max_context=context, device=device)
    prompts = random_prompts(
        max(load.rows for load in replay.loads), replay.prompt_tokens, vocab_size=replay.shape.vocab_size
    )
    curve = replay.acceptance.curve(replay.block_size)
    double = Replay(
        dict(zip(map(tuple, prompts), _continuations(config, model, prompts), strict=True)),
        curve,
        block_size=replay.block_size,
        vocab_size=replay.shape.vocab_size,
        device=device,
    )
    return {
        "parameters": replay.shape.backbone_params + replay.shape.head_params,
        "shape": replay.shape.model_dump(),
        "tokens_per_step_asked": curve.tokens_per_step(replay.block_size),
        "loads": [_time_load(config, model, prompts[: load.rows], load, double) for load in replay.loads],
    }


def _continuations(config: EvaluateConfig, model: OrthrusLM, prompts: Prompts) -> Outputs:
    """What AR decoding emits, under the largest load."""
    assert config.replay is not None
    load = max(config.replay.loads, key=lambda load: load.batch)
    logger.info("completing rows=%d for the replay", len(prompts))
    outputs = _engine(config, model, AR, load, token_budgets(load)[AR])(prompts)()
    assert not isinstance(outputs, Measured)
    return outputs


def _engine(
    config: EvaluateConfig,
    model: OrthrusLM,
    name: str,
    load: LoadConfig,
    token_budget: int | None,
    double: Replay | None = None,
) -> EngineSystem:
    assert config.replay is not None
    options = engine_config(
        config,
        name,
        max_sequences=load.batch,
        token_budget=token_budget,
        block_size=None,
        lookup_tokens=0,
        max_context=config.replay.prompt_tokens + config.replay.new_tokens,
    )
    params = SamplingParams(max_new_tokens=config.replay.new_tokens, ignore_eos=True)
    if double is None:
        return EngineSystem(model, params=params, config=options)
    return EngineSystem(model, params=params, config=options, make_draft=double.new_draft)


def _time_load(
    config: EvaluateConfig, model: OrthrusLM, prompts: Prompts, load: LoadConfig, double: Replay
) -> dict[str, Any]:
    assert config.replay is not None
    logger.info("timing replayed batch=%d rows=%d", load.batch, len(prompts))
    budgets = token_budgets(load)
    engines = {
        name: _engine(config, model, name, load, budget, double if name == CONSENSUS else None)
        for name, budget in budgets.items()
    }
    timings = time_systems(engines, prompts, rounds=config.replay.rounds, warm_up_rows=1)
    return {
        "prompt_set": "random",
        "batch": load.batch,
        "context": None,
        "rows": len(prompts),
        "rounds": config.replay.rounds,
        "rows_without_room": 0,
        "dtype": str(model.dtype).removeprefix("torch."),
        "acceptance_length": acceptance(engines[CONSENSUS].completions)["acceptance_length"],
        "per_question_ratio": per_question_ratio(engines),
        "systems": [figures(name, timings, budgets[name]) for name in timings],
    }
