"""Muon for matrices, AdamW for the rest, and the learning-rate schedule."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import Parameter

from orthrus_core.training.config import OptimizerConfig


def lr_factor(progress: float, config: OptimizerConfig) -> float:
    """Share of the peak learning rate at `progress` in [0, 1] of the run."""
    if progress < config.warmup:
        return max(progress / config.warmup, 0.01)
    fall = min((progress - config.warmup) / (1 - config.warmup), 1.0)
    height = 1 - fall if config.decay == "linear" else 0.5 * (1 + math.cos(math.pi * fall))
    return config.final_lr + (1 - config.final_lr) * height


class MuonAdamW:
    """Both optimisers behind one `step`, with gradient clipping and the schedule."""

    def __init__(self, named_parameters: Iterable[tuple[str, Parameter]], config: OptimizerConfig) -> None:
        """Sort the parameters: matrices that are not embeddings go to Muon."""
        self._config = config
        matrices: list[Parameter] = []
        others: list[Parameter] = []
        for name, parameter in named_parameters:
            is_matrix = parameter.ndim == 2 and "embed" not in name and "lm_head" not in name
            (matrices if is_matrix else others).append(parameter)
        self._parameters = matrices + others
        self._optimizers: list[tuple[torch.optim.Optimizer, float]] = []
        if matrices:
            muon = torch.optim.Muon(
                matrices, lr=config.muon_lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
            )
            self._optimizers.append((muon, config.muon_lr))
        if others:
            adamw = torch.optim.AdamW(others, lr=config.adamw_lr, betas=(0.9, 0.95), weight_decay=0.0)
            self._optimizers.append((adamw, config.adamw_lr))

    def step(self, progress: float) -> Tensor:
        """Clip, update at the learning rate of `progress`, and clear the gradients.

        Returns:
            () FP32, the global gradient norm before clipping.
        """
        grad_norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._config.max_grad_norm)
        factor = lr_factor(progress, self._config)
        for optimizer, peak_lr in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = peak_lr * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return grad_norm
