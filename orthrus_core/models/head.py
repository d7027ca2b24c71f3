"""Adding a fresh diffusion head to a plain backbone, and taking one off."""

import copy
import logging
from typing import Any, Literal

import torch
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights

from orthrus_core.errors import CheckpointError, ConfigError
from orthrus_core.models.checkpoint import TIED
from orthrus_core.models.config import DIFFUSION_SUFFIX, plain_config_class, plain_fields
from orthrus_core.models.mask_token import choose_mask_token, with_mask_row
from orthrus_core.models.model import DualViewLM, OrthrusLM, model_class, plain_model_class
from orthrus_core.models.requirements import check_backbone
from orthrus_core.models.trial import check_agreement

DEFAULT_STD = 0.02  # of transformers' configs
TABLES = {*TIED, *TIED.values()}  # the tensors with a row for each token

logger = logging.getLogger(__name__)


def add_diffusion_head(
    backbone: PreTrainedModel,
    *,
    block_size: int = 32,
    mask_token_id: int | None = None,
    tokenizer: Any | None = None,
    init: Literal["ar", "random"] = "ar",
    seed: int = 0,
) -> OrthrusLM:
    """Give a plain causal LM the second view, by default initialised from its own projections.

    Args:
        backbone: a causal LM of transformers; it is not changed, its tensors are copied.
        block_size: K, the most tokens the head will draft in one step.
        mask_token_id: id of the token that marks a place to draft; must not occur in text. The vocabulary's
            size: the tables get a row more. None: see `choose_mask_token`; a log line says which.
        tokenizer: the backbone's, for that choice.
        init: "ar": every tensor of the head is a copy of its AR counterpart. "random": see
            `randomize_diffusion_head`.
        seed: of the random head.
    Returns:
        An `OrthrusLM`, or its sibling for another kind of backbone (see `model_class`), on the backbone's
        device, in its dtype, in evaluation mode.
    Raises:
        ConfigError: the architecture is not supported, or the head's numbers are out of bounds.
    """
    if isinstance(backbone, DualViewLM):
        raise ConfigError(f"add_diffusion_head takes a plain backbone; {type(backbone).__name__} has a head")
    check_backbone(backbone)
    V = backbone.config.vocab_size
    if mask_token_id is None:
        mask_token = choose_mask_token(tokenizer, V)
        logger.info("mask_token=%s", mask_token)
        mask_token_id = mask_token.id
    head, tensors = {"block_size": block_size, "mask_token_id": mask_token_id}, backbone.state_dict()
    if mask_token_id == V:
        head["vocab_size"] = V + 1
        tensors |= {name: with_mask_row(tensors[name]) for name in TABLES & tensors.keys()}
    model = _without_weights(backbone, head)
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    if unexpected or any(DIFFUSION_SUFFIX not in name for name in missing):
        raise ConfigError(f"backbone tensors do not fit its config: {(missing + unexpected)[:3]}")
    reset_diffusion_head(model)
    model.generation_config = copy.deepcopy(backbone.generation_config)
    model.eval()
    check_agreement(model)
    if init == "random":
        randomize_diffusion_head(model, seed=seed)
    return model


def _without_weights(backbone: PreTrainedModel, head: dict[str, int]) -> OrthrusLM:
    """Return the model on the backbone's device and in its dtype, its tensors not yet set.

    Args:
        head: fields of the config that differ from the backbone's.
    """
    backbone_type = backbone.config.model_type
    own_class = model_class(backbone_type)
    if type(backbone) is not plain_model_class(backbone_type):
        raise CheckpointError(
            f"the causal LM of a {backbone_type} config is {plain_model_class(backbone_type).__name__}, "
            f"got {type(backbone).__name__}"
        )
    config = own_class.config_class(**plain_fields(backbone.config) | head)
    config.check_head()
    with torch.device(backbone.device), no_init_weights():
        model = own_class._from_config(
            config, dtype=backbone.dtype, attn_implementation=backbone.config._attn_implementation
        )
    model.tie_weights()  # no_init_weights leaves this out too
    return model


@torch.no_grad()
def reset_diffusion_head(model: DualViewLM) -> None:
    """Set every `*_diff` tensor to its AR counterpart, in place."""
    for layer in model.model.layers:
        for name in layer.self_attn.view_modules:
            ar_view = getattr(layer.self_attn, name)
            getattr(layer.self_attn, name + DIFFUSION_SUFFIX).load_state_dict(ar_view.state_dict())


@torch.no_grad()
def randomize_diffusion_head(model: DualViewLM, *, seed: int) -> None:
    """Give the head matrices as of an untrained model, in place; a function of shapes and seed alone.

    Matrices are normal with the standard deviation of the config's `initializer_range`, biases 0. Norms are
    the AR view's: an untrained norm is not random in any architecture.
    """
    reset_diffusion_head(model)
    std = getattr(model.config, "initializer_range", None) or DEFAULT_STD
    generator = torch.Generator().manual_seed(seed)
    for layer in model.model.layers:
        for module_name in layer.self_attn.view_modules:
            module = getattr(layer.self_attn, module_name + DIFFUSION_SUFFIX)
            for name, parameter in module.named_parameters():
                if parameter.ndim > 1:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
                elif name == "bias":
                    parameter.zero_()


def remove_diffusion_head(model: OrthrusLM) -> PreTrainedModel:
    """Return the plain backbone, for programs that know nothing of the head.

    Args:
        model: it is not changed, its tensors are copied.
    Returns:
        transformers' own model of the backbone on the model's device, in its dtype, in evaluation mode.
    """
    backbone_type = model.config.backbone_type
    config = plain_config_class(backbone_type)(**plain_fields(model.config))
    with torch.device(model.device), no_init_weights():
        backbone = plain_model_class(backbone_type)._from_config(config, dtype=model.dtype)
    backbone.tie_weights()
    tensors = {name: tensor for name, tensor in model.state_dict().items() if DIFFUSION_SUFFIX not in name}
    backbone.load_state_dict(tensors)
    backbone.generation_config = copy.deepcopy(model.generation_config)
    return backbone.eval()
