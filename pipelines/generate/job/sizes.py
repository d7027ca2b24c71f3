"""How large an actor's engine is, before it is there: from the run's manifest, the model and the memory."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from orthrus_core.engine.config import EngineConfig
from orthrus_core.readiness.device_memory import DeviceMemory, device_memory
from pipelines.checkpoint.directory import Checkpoint
from pipelines.cluster.resources import device_share
from pipelines.generate.config.job import GenerateConfig

if TYPE_CHECKING:
    from orthrus_core.readiness.memory import MemoryPlan

MOST_NEW_TOKENS = 2048  # of a completion, where nobody says
PROMPT_TOKENS = 512  # of a typical prompt, where none was read


@dataclass(frozen=True)
class Sizes:
    """An actor's engine, or what each of its ranks has of one.

    Attributes:
        decode: its options with every size resolved.
        rows: T, token rows of the largest forward.
        dtype: of weights and cache.
        page_bytes: of a cache page.
        plan: the bytes that it takes.
        left: bytes that may be taken on its device, model included; None: it is not to be seen from here.
    """

    decode: EngineConfig
    rows: int
    dtype: torch.dtype
    page_bytes: int
    plan: "MemoryPlan"
    left: int | None


def choose_sizes(
    config: GenerateConfig,
    checkpoint: Checkpoint,
    device: str,
    memory: DeviceMemory | None,
    *,
    num_rows: int = sys.maxsize,
    prompt_tokens: float = PROMPT_TOKENS,
) -> Sizes:
    """Resolve the sizes that a config leaves open, as the engine of an actor does beside its weights.

    Args:
        device: "cpu" or "cuda".
        memory: of the device; None: not to be seen from here.
        num_rows: of the job; more sequences than completions are never in flight.
        prompt_tokens: of a typical prompt.
    Raises:
        ConfigError: the model does not fit the device.
    """
    from orthrus_core.models.loading import load_config  # late: models take seconds to import
    from orthrus_core.models.weights import quantise
    from orthrus_core.readiness.memory import model_bytes, page_bytes, plan_memory, skeleton, token_budget
    from orthrus_core.readiness.sizes import fit

    ranks = config.model.tensor_parallel
    share = config.decode.memory * device_share(config.run, device, ranks)
    decode = config.decode.model_copy(update={"memory": share})
    shape = load_config(checkpoint.path, needs_head=decode.needs_head)
    model = skeleton(shape, _dtype(config.model.dtype, shape.dtype), ranks)
    quantise(model, config.model.weights, output_head=config.model.quantise_output_head)
    left = None if memory is None else memory.left(share)
    beside = None if left is None else left - sum(model_bytes(model))
    typical = int(prompt_tokens) + (config.sampling.max_new_tokens or MOST_NEW_TOKENS)
    fitted = fit(decode, model, device_type=device, left=beside, typical=typical)
    if not decode.max_sequences:
        most = min(fitted.max_sequences, num_rows * config.sampling.n)
        decode = decode.model_copy(update={"max_sequences": most})
        fitted = fit(decode, model, device_type=device, left=beside, typical=typical)
    return Sizes(
        decode=fitted,
        rows=token_budget(shape, fitted, device),
        dtype=model.dtype,
        page_bytes=page_bytes(model, fitted.page_size),
        plan=plan_memory(model, fitted, device_type=device),
        left=left,
    )


def with_lengths(
    config: GenerateConfig, checkpoint: Checkpoint, stored: Mapping[str, Any] | None
) -> GenerateConfig:
    """Resolve max_context and max_new_tokens, on which rows depend: the run's own, else from the model.

    Less than the model's context where its device can be seen from here and holds less.

    Args:
        stored: the manifest of the run; None: it is new.
    """
    before = {} if stored is None else stored["identity"]
    context = config.decode.max_context or before.get("decode.max_context")
    if context is None:
        asked = config.model.device
        context = choose_sizes(config, checkpoint, device_here(asked), memory_here(asked)).decode.max_context
    longest = config.sampling.max_new_tokens or before.get("sampling.max_new_tokens", 0)
    if not config.sampling.prompt_logprobs:
        longest = longest or max(config.sampling.min_tokens, min(MOST_NEW_TOKENS, context // 2))
    return config.model_copy(
        update={
            "decode": config.decode.model_copy(update={"max_context": context}),
            "sampling": config.sampling.model_copy(update={"max_new_tokens": longest}),
        }
    )


def device_here(asked: str) -> str:
    """The device that an actor on this machine would use."""
    return "cuda" if asked == "cuda" or (asked == "auto" and torch.cuda.is_available()) else "cpu"


def memory_here(asked: str) -> DeviceMemory | None:
    """The memory of this machine's device; None: actors have one that is not here, or may have ("auto")."""
    if asked == "cpu" or torch.cuda.is_available():
        return device_memory(torch.device(device_here(asked)))
    return None


def _dtype(asked: str, own: Any) -> torch.dtype:
    """The type of weights and cache."""
    name = str(own or "float32").removeprefix("torch.") if asked == "auto" else asked
    return getattr(torch, name)
