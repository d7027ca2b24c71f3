"""Which numbers a model's weights are: as it was loaded, or bytes that are made from those."""

from typing import Any, Literal

import torch
from torch import nn

from orthrus_core.errors import ConfigError
from orthrus_core.linear.quantised import BYTE_DTYPES, QuantisedLinear
from orthrus_core.models.cost import has_experts

Weights = Literal["auto", "int8", "fp8"]


def check_weights(config: Any, weights: Weights) -> None:
    """Refuse bytes for a model whose weights are not in linear layers.

    Args:
        config: of the model.
    Raises:
        ConfigError: a mixture of experts.
    """
    if weights != "auto" and has_experts(config):
        raise ConfigError(
            f"model.weights: {weights} is for dense models, and this one is a mixture of experts, whose "
            "weights are not in linear layers: leave model.weights at auto"
        )


@torch.no_grad()
def quantise(model: Any, weights: Weights, *, output_head: bool = False) -> None:
    """Make a model's linear layers, those of both views, `QuantisedLinear`, in place.

    Embeddings, norms and biases stay; so do activations and the cache.

    Args:
        model: with two views; on the meta device it will do.
        weights: auto: nothing is done.
        output_head: the output head too. Where it is the embedding, that stays as it is beside the bytes.
    Raises:
        ConfigError: a mixture of experts.
    """
    if weights == "auto":
        return
    check_weights(model.config, weights)
    for module in [*model.modules()]:
        for name, layer in [*module.named_children()]:
            if type(layer) is nn.Linear and (output_head or layer is not model.lm_head):
                setattr(module, name, QuantisedLinear.of(layer, BYTE_DTYPES[weights]))
