"""Orthrus: exact parallel decoding with a dual-view language model. Tensors in, tokens out.

Names are imported when they are first asked for, and with the models transformers' Auto classes learn of
`model_type: orthrus`. Imported on its own, as a library, the package does that at once; within the pipelines,
most of whose processes plan, read or write rows, nobody waits for torch who does not use it.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orthrus_core.engine.config import EngineConfig
    from orthrus_core.engine.leader import follow
    from orthrus_core.engine.sequence import Completion
    from orthrus_core.engine.stats import CompletionStats
    from orthrus_core.errors import CheckpointError, ConfigError, EngineError, OrthrusError, RequestError
    from orthrus_core.models.config import OrthrusConfig
    from orthrus_core.models.head import add_diffusion_head
    from orthrus_core.models.loading import load_model
    from orthrus_core.models.model import OrthrusLM
    from orthrus_core.models.slice_loading import load_slice
    from orthrus_core.ranks import join_ranks
    from orthrus_core.readiness.engine import Engine
    from orthrus_core.request import Request, SamplingParams

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "Completion",
    "CompletionStats",
    "ConfigError",
    "Engine",
    "EngineConfig",
    "EngineError",
    "OrthrusConfig",
    "OrthrusError",
    "OrthrusLM",
    "Request",
    "RequestError",
    "SamplingParams",
    "add_diffusion_head",
    "follow",
    "join_ranks",
    "load_model",
    "load_slice",
]

HOMES = {
    "orthrus_core.engine.config": ("EngineConfig",),
    "orthrus_core.engine.leader": ("follow",),
    "orthrus_core.ranks": ("join_ranks",),
    "orthrus_core.models.slice_loading": ("load_slice",),
    "orthrus_core.readiness.engine": ("Engine",),
    "orthrus_core.request": ("Request", "SamplingParams"),
    "orthrus_core.engine.sequence": ("Completion",),
    "orthrus_core.engine.stats": ("CompletionStats",),
    "orthrus_core.errors": ("CheckpointError", "ConfigError", "EngineError", "OrthrusError", "RequestError"),
    "orthrus_core.models.config": ("OrthrusConfig",),
    "orthrus_core.models.head": ("add_diffusion_head",),
    "orthrus_core.models.loading": ("load_model",),
    "orthrus_core.models.model": ("OrthrusLM",),
}


def __getattr__(name: str) -> Any:
    for home, names in HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if "pipelines" not in sys.modules:
    importlib.import_module("orthrus_core.hf.generation")  # which registers
