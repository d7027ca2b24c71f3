"""What updates the weights: Muon and AdamW, or AdamW alone, with clipping and one learning-rate schedule."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from orthrus_core.training.config import OptimizerConfig
from orthrus_core.training.muon import Muon
from orthrus_core.training.sharding import is_sharded, local_part, shard_like, whole_copy

BETAS = (0.9, 0.95)


def lr_factor(progress: float, config: OptimizerConfig) -> float:
    """Share of the peak learning rate at `progress` in [0, 1] of the run."""
    if progress < config.warmup:
        return max(progress / config.warmup, 0.01)
    fall = min((progress - config.warmup) / (1 - config.warmup), 1.0)
    height = 1 - fall if config.decay == "linear" else 0.5 * (1 + math.cos(math.pi * fall))
    return config.final_lr + (1 - config.final_lr) * height


class ScheduledOptimizer:
    """The optimisers of all trained parameters behind one `step`.

    Gradients are those of sums of losses; `step` divides them by the sum of weights.
    """

    def __init__(self, named_parameters: Iterable[tuple[str, Parameter]], config: OptimizerConfig) -> None:
        """Sort the parameters by optimiser, see `OptimizerConfig.kind`."""
        self._config = config
        self._named = dict(named_parameters)
        self._optimizers: list[tuple[torch.optim.Optimizer, float]] = []
        matrices = [p for name, p in self._named.items() if _is_matrix(name, p)]
        others = [p for name, p in self._named.items() if not _is_matrix(name, p)]
        if matrices:
            self._optimizers.append(self._for_matrices(matrices))
        if others:
            self._optimizers.append((self._adamw(others, 0.0), config.adamw_lr))

    def _for_matrices(self, matrices: list[Parameter]) -> tuple[torch.optim.Optimizer, float]:
        config = self._config
        if config.kind == "adamw":
            return self._adamw(matrices, config.weight_decay), config.adamw_lr
        return Muon(_groups(matrices), lr=config.muon_lr, weight_decay=config.weight_decay), config.muon_lr

    def _adamw(self, parameters: list[Parameter], weight_decay: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            _groups(parameters), lr=self._config.adamw_lr, betas=BETAS, weight_decay=weight_decay, fused=True
        )

    def squared_norm(self) -> tuple[Tensor, Tensor]:
        """Squared norms of the gradients, () FP32 each: of the parts held here, of those held everywhere."""
        return self._squared_norm(sharded=True), self._squared_norm(sharded=False)

    def _squared_norm(self, *, sharded: bool) -> Tensor:
        gradients = [
            local_part(p.grad)
            for p in self._named.values()
            if p.grad is not None and is_sharded(p) == sharded and local_part(p.grad).numel()
        ]
        if not gradients:
            return torch.zeros(())
        return torch.stack(torch._foreach_norm(gradients)).square().sum()

    def step(self, progress: float, *, grad_norm: float, weight: float) -> None:
        """Update at the learning rate of `progress` in [0, 1], and clear the gradients.

        Args:
            grad_norm: of all gradients, divided by `weight`.
            weight: what the gradients are divided by.
        """
        clipped = min(1.0, self._config.max_grad_norm / (grad_norm + 1e-6))
        gradients = [local_part(p.grad) for p in self._named.values() if p.grad is not None]
        torch._foreach_mul_(gradients, clipped / weight)
        factor = lr_factor(progress, self._config)
        for optimizer, peak_lr in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = peak_lr * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state_dict(self, *, keep: bool = True) -> dict[str, dict[str, Tensor]]:
        """Whole tensors on the CPU by parameter and name, the same for every number of processes.

        Args:
            keep: whether this process wants them; all have to call.
        """
        return {
            name: {key: whole_copy(value, keep=keep) for key, value in self._state_of(parameter).items()}
            for name, parameter in self._named.items()
        }

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take over what `state_dict` gave, on every process the same."""
        for name, parameter in self._named.items():
            self._optimizer_of(parameter).state[parameter] = {
                key: _placed(value, parameter) for key, value in state[name].items()
            }

    def _state_of(self, parameter: Parameter) -> Mapping[str, Tensor]:
        return self._optimizer_of(parameter).state.get(parameter, {})

    def _optimizer_of(self, parameter: Parameter) -> torch.optim.Optimizer:
        for optimizer, _ in self._optimizers:
            if any(parameter is own for group in optimizer.param_groups for own in group["params"]):
                return optimizer
        raise AssertionError("a parameter without an optimiser")


def _is_matrix(name: str, parameter: Parameter) -> bool:
    return parameter.ndim == 2 and "embed" not in name and "lm_head" not in name


def _groups(parameters: list[Parameter]) -> list[dict[str, Any]]:
    """Sharded and whole parameters apart: one call of an optimiser's arithmetic cannot take both."""
    parts = [[p for p in parameters if is_sharded(p) == sharded] for sharded in (True, False)]
    return [{"params": part} for part in parts if part]


def _placed(value: Tensor, parameter: Parameter) -> Any:
    """A state tensor where its parameter is; a single number (a count of steps) stays whole."""
    on_device = value.to(parameter.device).clone()
    return on_device if value.ndim == 0 else shard_like(on_device, parameter)
