"""The evaluate job's clock: decoding under several loads."""

import itertools
import logging
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from orthrus_core.engine.config import EngineConfig
from orthrus_core.errors import ConfigError
from orthrus_core.evaluation.speed import System, Timing, rows_in_common, time_systems
from orthrus_core.evaluation.systems import (
    EngineSystem,
    generate_batch_system,
    prompt_lookup_system,
    transformers_system,
)
from orthrus_core.models.model import OrthrusLM
from orthrus_core.request import SamplingParams
from pipelines.evaluate.acceptance import acceptance
from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.prompts import PromptSet, lengthened
from pipelines.evaluate.speed_config import LoadConfig, SpeedLoad

logger = logging.getLogger(__name__)

CONSENSUS, AR = "consensus", "AR"


class Peer(NamedTuple):
    """Another way to decode.

    Attributes:
        shown: its name in reports.
        system: given how many requests shall be in flight, what is timed.
    """

    shown: str
    system: Callable[[int], System]


Peers = Mapping[str, Peer]
"""By their names in the config."""


def check_room(config: EvaluateConfig, prompt_set: PromptSet, context: int | None = None) -> list[list[int]]:
    """Return the prompts that leave room for max_new_tokens: transformers knows no max_context.

    Args:
        context: tokens to which they will be lengthened; None: they stay as they are.
    Raises:
        ConfigError: there are none.
    """
    room, new_tokens = config.decode.max_context, config.sampling.max_new_tokens
    most = room - new_tokens
    needs = f"room for sampling.max_new_tokens ({new_tokens}) in decode.max_context ({room})"
    if context is not None and context > most:
        raise ConfigError(f"speed: context {context} leaves no {needs}")
    prompts = [ids for ids in prompt_set.prompts if len(ids) <= (context or most)]
    if not prompts and context is not None:
        raise ConfigError(f"speed: no prompt of {prompt_set.name} fits into context {context}")
    if not prompts:
        raise ConfigError(f"speed: no prompt of {prompt_set.name} leaves {needs}")
    return prompts


def time_load(
    config: EvaluateConfig, model: OrthrusLM, prompt_set: PromptSet, load: SpeedLoad, peers: Peers
) -> dict[str, Any]:
    """Time every system under one load; the model's dtype is used as it is.

    Args:
        peers: engines behind pipes.
    Returns:
        `systems`: the lines of the speed table, consensus decoding first; its acceptance of all tokens and
        `per_question`.
    """
    assert config.speed is not None
    fitting = check_room(config, prompt_set, load.context)
    whole = fitting if load.context is None else lengthened(fitting, load.context)
    prompts = list(itertools.islice(whole, load.rows))
    logger.info(
        "timing prompt_set=%s batch=%d context=%s rows=%d",
        *(prompt_set.name, load.batch, load.context, len(prompts)),
    )
    budgets = token_budgets(load)
    engines = engine_systems(config, model, load, budgets)
    peers = {**transformers_peers(model, config.sampling), **peers}
    others = [peers[name] for name in load.systems if name in peers]
    timings = time_systems(
        {**engines, **{peer.shown: peer.system(load.batch) for peer in others}},
        prompts,
        rounds=config.speed.rounds,
        warm_up_rows=max(config.speed.warm_up_rows, load.batch),
        pause_s=config.speed.pause_s,
    )
    drafts = acceptance(engines[CONSENSUS].completions)
    return {
        "prompt_set": prompt_set.name,
        "batch": load.batch,
        "context": load.context,
        "rows": len(prompts),
        "rounds": config.speed.rounds,
        "rows_without_room": len(prompt_set.rows) - len(fitting),
        "dtype": show_dtype(model),
        "acceptance_length": drafts["acceptance_length"],
        "per_question": drafts["per_question"],
        "per_question_ratio": per_question_ratio(engines),
        "systems": [figures(name, timings, budgets.get(name)) for name in timings],
    }


def per_question_ratio(engines: Mapping[str, EngineSystem]) -> float:
    """How many times as fast consensus is as AR, the mean over the questions of the last round.

    Of a question counts the time from its first row in a forward to its end.
    """
    pairs = zip(engines[CONSENSUS].completions, engines[AR].completions, strict=True)
    return statistics.fmean(ar.stats.running_s / ours.stats.running_s for ours, ar in pairs)


def token_budgets(load: LoadConfig) -> dict[str, int | None]:
    """T of each mode; None: the engine's own choice."""
    return {CONSENSUS: load.token_budget, AR: load.ar_token_budget or load.token_budget}


def engine_config(config: EvaluateConfig, name: str, **changes: Any) -> EngineConfig:
    """The job's engine as one of the timed ones: mode by name, pages as many as needed."""
    mode = "consensus" if name == CONSENSUS else "autoregressive"
    return EngineConfig(**config.decode.model_dump() | {"mode": mode, "num_pages": None} | changes)


def engine_systems(
    config: EvaluateConfig, model: OrthrusLM, load: LoadConfig, budgets: Mapping[str, int | None]
) -> dict[str, EngineSystem]:
    """The engine in both modes, by name."""
    return {
        name: EngineSystem(
            model,
            params=config.sampling,
            config=engine_config(config, name, max_sequences=load.batch, token_budget=token_budget),
        )
        for name, token_budget in budgets.items()
    }


def transformers_peers(model: OrthrusLM, params: SamplingParams) -> Peers:
    """transformers' ways to decode."""
    return {
        "transformers": Peer(
            "transformers generate",
            lambda batch: transformers_system(model, params=params, batch_size=batch),
        ),
        "prompt_lookup": Peer(
            "transformers prompt lookup", lambda batch: prompt_lookup_system(model, params=params)
        ),
        "generate_batch": Peer(
            "transformers generate_batch",
            lambda batch: generate_batch_system(model, params=params, batch_size=batch),
        ),
    }


def show_dtype(model: OrthrusLM) -> str:
    """Name of the model's dtype, as config files have it."""
    return str(model.dtype).removeprefix("torch.")


def figures(name: str, timings: Mapping[str, Timing], token_budget: int | None) -> dict[str, Any]:
    """One line of a speed table; the ratios say how many times as fast the engine's modes are."""
    timing = timings[name]
    return {
        "name": name,
        "token_budget": token_budget,
        "tokens": list(timing.tokens),
        "seconds": list(timing.seconds),
        "tokens_per_s": asdict(timing.tokens_per_s),
        "consensus_ratio": asdict(timings[CONSENSUS].ratio_to(timing)),
        "ar_ratio": asdict(timings[AR].ratio_to(timing)),
        "rows_as_consensus": rows_in_common(timing.outputs, timings[CONSENSUS].outputs),
    }
