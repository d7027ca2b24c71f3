"""Mixture-of-experts layers whose rows do not depend on each other's routing.

transformers groups a forward's rows by expert, so that the shapes of its matrix products, and with them the
bits of every row, depend on which other rows are there. Here every expert runs on all T rows, in shapes that
T alone decides, and each row takes the results of its own experts.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

EXPERTS_NAME = "orthrus_rows"


def make_experts_row_wise(model: PreTrainedModel) -> bool:
    """Let a model's experts compute row by row, from now on.

    Returns:
        Whether every layer of experts does; True too where there are none. False: a build that this module
        does not know, which keeps transformers' own computation.
    """
    layers = _layers(model)
    known = all(_is_known(layer) for layer in layers)
    if layers and known:
        ALL_EXPERTS_FUNCTIONS.register(EXPERTS_NAME, row_wise_experts)
        model.config._experts_implementation = EXPERTS_NAME
    return known


def experts_width(model: PreTrainedModel) -> int:
    """Return how many numbers a row takes in a layer of experts, every one of which computes it.

    That is 3 I + D of each expert; 0 without any.
    """
    D = model.config.hidden_size
    sizes = [(one.num_experts, sum(map(Tensor.numel, one.parameters()))) for one in _layers(model)]
    return max((E * D + numel // D for E, numel in sizes), default=0)


def row_wise_experts(experts: nn.Module, rows: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """Run every expert on every row, keep each row's own.

    Costs the arithmetic of E / k times as many experts as the model needs; reads each expert's weights once,
    which a forward of T k >= E rows does anyway.

    Args:
        experts: with gate_up_proj (E, 2 I, D) and down_proj (E, D, I), or each transposed.
        rows: (T, D).
        top_k_index: (T, k) int64.
        top_k_weights: (T, k).
    Returns:
        (T, D).
    """
    T, E = len(rows), experts.num_experts
    inner = experts._apply_gate(_each(rows.expand(E, T, -1), experts.gate_up_proj, experts))  # type: ignore
    results = _each(inner, experts.down_proj, experts)  # type: ignore[arg-type]
    own = results[top_k_index, torch.arange(T, device=rows.device)[:, None]]  # (T, k, D)
    return (own * top_k_weights[..., None]).sum(dim=1).to(rows.dtype)


def _each(rows: Tensor, weights: Tensor, experts: nn.Module) -> Tensor:
    """(E, T, in) times every expert's own matrix."""
    return torch.bmm(rows, weights if experts.is_transposed else weights.transpose(1, 2))


def _layers(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if hasattr(module, "_is_expert_parallel")]


def _is_known(experts: nn.Module) -> bool:
    return bool(experts.has_gate) and not (
        experts.has_bias or experts.has_post_expert_norm or experts._is_expert_parallel
    )
