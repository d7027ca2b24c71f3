"""Orthrus: exact parallel decoding with a dual-view language model. Tensors in, tokens out."""

from orthrus_core.decoding.engine import (
    Completion,
    CompletionStats,
    Engine,
    EngineConfig,
    Request,
    SamplingParams,
)
from orthrus_core.errors import CheckpointError, ConfigError, EngineError, OrthrusError, RequestError
from orthrus_core.models.config import OrthrusConfig
from orthrus_core.models.head import add_diffusion_head
from orthrus_core.models.loading import load_model
from orthrus_core.models.model import OrthrusLM, register

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
    "load_model",
]

register()
