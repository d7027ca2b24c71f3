"""This engine and others complete the same prompts, one at a time at work, the others at rest."""

import logging
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from orthrus_core.errors import ConfigError
from orthrus_core.evaluation.speed import Timing, rows_in_common, time_systems
from orthrus_core.evaluation.systems import eos_ids_of
from orthrus_core.models.model import OrthrusLM
from pipelines.evaluate.peers.process import PeerProcess
from pipelines.evaluate.peers.vllm import export_backbone, vllm_launch
from pipelines.evaluate.prompts import PromptSet
from pipelines.evaluate.speed import (
    AR,
    CONSENSUS,
    check_room,
    engine_systems,
    show_dtype,
    token_budgets,
    transformers_systems,
)
from pipelines.evaluate.speed_config import SpeedLoad
from tests.benchmarks.peers.config import PeersBenchmark, PeersConfig, VllmVariant

logger = logging.getLogger(__name__)

AUTHORS = "the authors' code"
VLLM = "vLLM, "


def compare_with_peers(
    config: PeersBenchmark, model: OrthrusLM, model_path: str, prompt_set: PromptSet
) -> dict[str, Any]:
    """Time this engine and every peer under every load.

    Args:
        model: on the CPU, in model.dtype.
        model_path: its directory.
    Returns:
        `peers`: version, seconds of loading and CPU share at rest; `left_out`: why others were not timed;
        `loads`: the figures.
    Raises:
        ConfigError: a peer is not installed, or no prompt fits.
        OrthrusError: a peer failed.
    """
    peers = config.peers
    prompts = _prompts(config, peers, prompt_set)
    with ExitStack() as stack:
        processes = {
            name: stack.enter_context(PeerProcess(name, **launch))
            for name, launch in _launches(peers, model, model_path).items()
        }
        loads = [_time_load(config, model, prompts[: load.rows], load, processes) for load in peers.loads]
        return {
            "threads": torch.get_num_threads(),
            "rounds": peers.rounds,
            "dtype": show_dtype(model),
            "peers": [_describe(process) for process in processes.values()],
            "left_out": [] if peers.authors.path else [f"{AUTHORS}: set peers.authors.path to a checkout"],
            "loads": loads,
        }


def _prompts(config: PeersBenchmark, peers: PeersConfig, prompt_set: PromptSet) -> list[list[int]]:
    """The set's prompts that fit this engine and vLLM."""
    prompts = check_room(config, prompt_set)
    if peers.vllm is None:
        return prompts
    most = peers.vllm.max_context - config.sampling.max_new_tokens
    fitting = [prompt for prompt in prompts if len(prompt) <= most]
    if not fitting:
        raise ConfigError(
            f"peers.vllm.max_context must leave room for a prompt of {prompt_set.name} beside "
            f"sampling.max_new_tokens ({config.sampling.max_new_tokens}), got {peers.vllm.max_context}"
        )
    return fitting


def _launches(peers: PeersConfig, model: OrthrusLM, model_path: str) -> dict[str, dict[str, Any]]:
    """What to start, by name: arguments of `PeerProcess`."""
    launches: dict[str, dict[str, Any]] = {}
    if peers.vllm is not None:
        if not peers.vllm.python.exists():
            raise ConfigError(
                f"peers.vllm.python: no {peers.vllm.python}; `make bench-peers` installs it, peers.vllm=null "
                "leaves it out"
            )
        backbone = export_backbone(model, peers.directory / "backbone")
        for name, variant in peers.vllm.variants.items():
            launches[VLLM + name] = _vllm_launch(peers, name, variant, backbone, show_dtype(model))
    if peers.authors.path is not None:
        launches[AUTHORS] = {
            "python": peers.authors.python or sys.executable,
            "module": "tests.benchmarks.peers.authors_server",
            "options": {
                "model": model_path,
                "path": str(peers.authors.path.resolve()),
                "threads": torch.get_num_threads(),
            },
            "environment": {},
            "log": peers.directory / "authors.log",
            "timeout_s": peers.timeout_s,
        }
    return launches


def _vllm_launch(
    peers: PeersConfig, name: str, variant: VllmVariant, backbone: Path, dtype: str
) -> dict[str, Any]:
    vllm = peers.vllm
    assert vllm is not None
    launch = vllm_launch(
        vllm.python,
        backbone,
        dtype=dtype,
        max_context=vllm.max_context,
        max_sequences=max(load.batch for load in peers.loads),
        compiled=variant.compiled,
        threads=variant.threads or torch.get_num_threads(),
        directory=peers.directory,
        log=f"vllm-{'-'.join(re.findall('[a-zA-Z0-9]+', name))}.log",
        timeout_s=peers.timeout_s,
    )
    if variant.intel_openmp:
        launch["environment"]["LD_PRELOAD"] = str(launch["python"].parents[1] / "lib" / "libiomp5.so")
    launch["environment"] |= variant.environment
    return launch


def _time_load(
    config: PeersBenchmark,
    model: OrthrusLM,
    prompts: Sequence[list[int]],
    load: SpeedLoad,
    processes: Mapping[str, PeerProcess],
) -> dict[str, Any]:
    logger.info("timing peers batch=%d rows=%d", load.batch, len(prompts))
    budgets = token_budgets(load)
    systems = engine_systems(config, model, load, budgets) | transformers_systems(config, model, load)
    for name, process in processes.items():
        if name != AUTHORS or load.batch == 1:
            systems[name] = process.system(
                in_flight=load.batch,
                max_new_tokens=config.sampling.max_new_tokens,
                eos_ids=eos_ids_of(model, config.sampling),
            )
    timings = time_systems(
        systems,
        prompts,
        rounds=config.peers.rounds,
        warm_up_rows=max(config.peers.warm_up_rows, load.batch),
        pause_s=config.peers.pause_s,
    )
    return {
        "batch": load.batch,
        "rows": len(prompts),
        "fastest_peer": fastest(timings, processes),
        "systems": [_figures(name, timings, budgets.get(name)) for name in timings],
    }


def _figures(name: str, timings: Mapping[str, Timing], token_budget: int | None) -> dict[str, Any]:
    """One line: a system's rate, how many times as fast this engine's modes are, and whether texts agree."""
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


def fastest(timings: Mapping[str, Timing], names: Collection[str]) -> str | None:
    """Which of these systems, where they were timed, has the highest median rate; None where none was."""
    timed = [name for name in timings if name in names]
    return max(timed, key=lambda name: timings[name].tokens_per_s.median, default=None)


def _describe(process: PeerProcess) -> dict[str, Any]:
    share = process.idle_cpu_s / process.idle_s if process.idle_s else None
    return {
        "name": process.name,
        "version": process.version,
        "load_s": process.load_s,
        "idle_cpu_share": share,
    }
