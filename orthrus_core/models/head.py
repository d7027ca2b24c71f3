"""Adding a fresh diffusion head to a plain backbone, and taking one off."""

import copy

import torch
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM
from transformers.initialization import no_init_weights

from orthrus_core.errors import ConfigError
from orthrus_core.models.attention import DIFFUSION_SUFFIX, VIEW_MODULES
from orthrus_core.models.config import OrthrusConfig
from orthrus_core.models.model import OrthrusLM


def add_diffusion_head(
    backbone: PreTrainedModel, *, block_size: int = 32, mask_token_id: int | None = None
) -> OrthrusLM:
    """Give a plain causal LM the second view, initialised from its own projections.

    Args:
        backbone: a transformers Qwen3 model; it is not changed, its tensors are copied.
        block_size: K, the most tokens the head will draft in one step.
        mask_token_id: id of the token that marks a place to draft; must not occur in text.
    Returns:
        An `OrthrusLM` on the backbone's device, in its dtype, in evaluation mode.
    Raises:
        ConfigError: the architecture is not supported, or the head's numbers are out of bounds.
    """
    if not isinstance(backbone, Qwen3ForCausalLM) or isinstance(backbone, OrthrusLM):
        raise ConfigError(
            f"add_diffusion_head supports plain Qwen3ForCausalLM backbones, got {type(backbone).__name__}"
        )
    model = _without_weights(backbone, block_size=block_size, mask_token_id=mask_token_id)
    missing, unexpected = model.load_state_dict(backbone.state_dict(), strict=False)
    if unexpected or any(DIFFUSION_SUFFIX not in name for name in missing):
        raise ConfigError(f"backbone tensors do not fit its config: {(missing + unexpected)[:3]}")
    reset_diffusion_head(model)
    model.generation_config = copy.deepcopy(backbone.generation_config)
    return model.eval()


def _without_weights(backbone: PreTrainedModel, *, block_size: int, mask_token_id: int | None) -> OrthrusLM:
    """Return the model on the backbone's device and in its dtype, its tensors not yet set."""
    fields = backbone.config.to_dict()
    for key in ("model_type", "architectures", "transformers_version"):
        fields.pop(key, None)
    config = OrthrusConfig(**fields | {"block_size": block_size, "mask_token_id": mask_token_id})
    config.check_head()
    with torch.device(backbone.device), no_init_weights():
        model = OrthrusLM._from_config(
            config, dtype=backbone.dtype, attn_implementation=backbone.config._attn_implementation
        )
    model.tie_weights()  # no_init_weights leaves this out too
    return model


@torch.no_grad()
def reset_diffusion_head(model: OrthrusLM) -> None:
    """Set every `*_diff` tensor to its AR counterpart, in place."""
    for layer in model.model.layers:
        for name in VIEW_MODULES:
            ar_view = getattr(layer.self_attn, name)
            getattr(layer.self_attn, name + DIFFUSION_SUFFIX).load_state_dict(ar_view.state_dict())


def remove_diffusion_head(model: OrthrusLM) -> Qwen3ForCausalLM:
    """Return the plain backbone, for programs that know nothing of the head.

    Args:
        model: it is not changed, its tensors are copied.
    Returns:
        A transformers Qwen3 model on the model's device, in its dtype, in evaluation mode.
    """
    fields = model.config.to_dict()
    for key in ("model_type", "architectures", "transformers_version", "block_size", "mask_token_id"):
        fields.pop(key, None)
    with torch.device(model.device), no_init_weights():
        backbone = Qwen3ForCausalLM._from_config(Qwen3Config(**fields), dtype=model.dtype)
    backbone.tie_weights()
    tensors = {name: tensor for name, tensor in model.state_dict().items() if DIFFUSION_SUFFIX not in name}
    backbone.load_state_dict(tensors)
    backbone.generation_config = copy.deepcopy(model.generation_config)
    return backbone.eval()
