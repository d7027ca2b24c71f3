"""What a backbone needs to carry a second view, and what is missing where it cannot."""

import inspect
from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from orthrus_core.errors import CheckpointError
from orthrus_core.models.attention import PROJECTIONS
from orthrus_core.models.config import head_dim

ATTENTION_NAMES = ("self_attn", "attention", "attn", "self_attention")
STATE_SPACE_NAMES = ("mamba", "linear_attn", "mixer", "ssm", "temporal_block", "conv", "short_conv")
CROSS_ATTENTION_NAMES = ("cross_attn", "encoder_attn", "crossattention")
ROPE_BY_LENGTH = ("dynamic", "longrope")
UNSUPPORTED_FIELDS = {
    "attention_chunk_size": "attention in chunks",
    "num_kv_shared_layers": "layers that share keys and values",
    "use_bidirectional_attention": "bidirectional attention",
    "quantization_config": "quantised weights",
    "text_config": "a model of several parts: take its text model",
}


class UnsupportedBackboneError(CheckpointError):
    """An architecture that cannot carry a diffusion head."""


def check_backbone(model: PreTrainedModel) -> None:
    """Refuse a causal LM whose attention layers cannot have two views over one paged cache.

    Raises:
        UnsupportedBackboneError: naming everything that is missing or in the way.
    """
    if problems := list(dict.fromkeys(_problems(model))):
        name = type(model).__name__
        raise UnsupportedBackboneError(f"{name} cannot carry a diffusion head: {'; '.join(problems)}")


def _problems(model: PreTrainedModel) -> Iterator[str]:
    config = model.config
    if getattr(config, "is_encoder_decoder", False):
        yield "it is an encoder-decoder, and the head belongs to a decoder-only model"
        return
    if getattr(config, "is_heterogeneous", False):
        yield "its layers differ in shape (config.per_layer_config)"
        return
    for field, meaning in UNSUPPORTED_FIELDS.items():
        if getattr(config, field, None):
            yield f"it has {meaning} (config.{field})"
    rope = sorted(set(_rope_types(getattr(config, "rope_parameters", None))) & set(ROPE_BY_LENGTH))
    if rope:
        yield (
            f"its rope_type is {rope[0]}, whose angles depend on the longest sequence of a forward, "
            "so that text would depend on the batch; default, linear, yarn and llama3 do not"
        )
    if not model._supports_attention_backend:
        yield "its attention does not go through transformers' AttentionInterface"
    layers = getattr(getattr(model, "model", None), "layers", None)
    if not isinstance(layers, nn.ModuleList):
        yield from _layer_problems(_first_layer(model), config)
        yield "it has no decoder layers at model.layers"
        return
    if not isinstance(getattr(model, "lm_head", None), nn.Linear):
        yield "it has no output head at lm_head"
    elif model.lm_head.bias is not None:
        yield "its output head has a bias (lm_head.bias)"
    for layer in layers:
        yield from _layer_problems(layer, config)


def _rope_types(parameters: Any) -> Iterator[str]:
    """Yield the rope types in a config's parameters, which may be one set or one per layer type."""
    if not isinstance(parameters, dict):
        return
    if isinstance(parameters.get("rope_type"), str):
        yield parameters["rope_type"]
    for part in parameters.values():
        yield from _rope_types(part)


def _first_layer(model: nn.Module) -> nn.Module | None:
    """Return the first decoder layer of a model of another build."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module)]
    return lists[0][0] if lists else None


def _layer_problems(layer: nn.Module | None, config: Any) -> Iterator[str]:
    if layer is None:
        return
    children = dict(layer.named_children())
    for name in STATE_SPACE_NAMES:
        if name in children:
            yield f"it has state-space or convolution layers ({name}), which keep no keys and values"
            return
    for name in CROSS_ATTENTION_NAMES:
        if name in children:
            yield f"it has cross-attention ({name})"
    attention = next((children[name] for name in ATTENTION_NAMES if name in children), None)
    if attention is None:
        yield "its layers have no self_attn"
        return
    if "self_attn" not in children:
        yield "its attention is not called self_attn"
    yield from _attention_problems(attention, config)


def _attention_problems(attention: nn.Module, config: Any) -> Iterator[str]:
    children = dict(attention.named_children())
    missing = [name for name in PROJECTIONS if name not in children]
    latent = [name for name in children if name.startswith(("kv_a_", "kv_b_", "q_a_", "q_b_"))]
    fused = [name for name in children if name in ("qkv_proj", "query_key_value", "c_attn", "Wqkv", "qkv")]
    if latent:
        yield f"it has multi-head latent attention ({', '.join(latent)}): no k_proj and v_proj of its own"
    elif fused:
        yield f"its attention fuses q, k and v into {fused[0]}: it needs {', '.join(missing)}"
    elif missing:
        yield f"its attention has no {', '.join(missing)}"
    if parameters := [name for name, _ in attention.named_parameters(recurse=False)]:
        what = "attention sinks" if "sinks" in parameters else "parameters of their own"
        yield f"its attention modules have {what} ({', '.join(parameters)})"
    arguments = inspect.signature(attention.forward).parameters
    if "position_embeddings" not in arguments:
        yield "its attention takes no rotary position_embeddings"
    if not any(argument.kind is argument.VAR_KEYWORD for argument in arguments.values()):
        yield "its attention passes no further arguments to the attention function"
    if not (missing or fused or latent):
        yield from _size_problems(children, config)


def _size_problems(children: dict[str, nn.Module], config: Any) -> Iterator[str]:
    H, Dh = config.num_attention_heads, head_dim(config)
    Hkv = getattr(config, "num_key_value_heads", None) or H
    expected = {"q_proj": H * Dh, "k_proj": Hkv * Dh, "v_proj": Hkv * Dh}
    for name, size in expected.items():
        found = getattr(children[name], "out_features", None)
        if found != size:
            yield f"{name} has {found} outputs instead of {size} (heads times head size)"
