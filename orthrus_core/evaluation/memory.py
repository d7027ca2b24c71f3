"""Peak memory of decoding, each mode in a process of its own."""

import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch

from orthrus_core.engine.config import EngineConfig
from orthrus_core.evaluation.speed import Prompts
from orthrus_core.models.loading import load_model
from orthrus_core.readiness.engine import Engine
from orthrus_core.request import SamplingParams

STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Memory:
    """Resident memory of a process that loaded a model and decoded.

    Attributes:
        mode: of the engine.
        loaded_bytes: peak until the model was loaded.
        peak_bytes: peak until all prompts were completed.
        cache_bytes: keys and values of all cells.
        cache_bytes_per_token: keys and values of one position, all layers.
    """

    mode: str
    loaded_bytes: int
    peak_bytes: int
    cache_bytes: int
    cache_bytes_per_token: int


def in_fresh_process(function: Callable, *args, **kwargs):
    """Call a function of a module in a process that inherits no memory, and return its result."""
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args, **kwargs).result()


def decode_and_weigh(
    path: str,
    prompts: Prompts,
    *,
    dtype: str,
    device: str,
    threads: int,
    params: SamplingParams,
    config: EngineConfig,
) -> Memory:
    """Load a model, decode prompts and return the peaks of this process, which is to be a fresh one.

    Args:
        path: checkpoint directory.
        dtype: name of a torch dtype, or "auto".
        config: of the engine, mode included.
    """
    torch.set_num_threads(threads)
    model = load_model(
        path, dtype=dtype if dtype == "auto" else getattr(torch, dtype), device=device, needs_head=False
    )
    loaded_bytes = peak_rss_bytes()
    engine = Engine(model, config)
    completions = engine.generate(prompts, params)
    assert all(completion.error is None for completion in completions)
    per_token = engine.cache.bytes_per_token
    cells = engine.config.total_pages * config.page_size
    return Memory(config.mode, loaded_bytes, peak_rss_bytes(), per_token * cells, per_token)


def peak_rss_bytes() -> int:
    """Return this process's largest resident set so far.

    Linux carries `getrusage`'s figure over from the parent through fork and exec, a floor that has nothing to
    do with this program; VmHWM starts anew with it.
    """
    if STATUS.exists():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
