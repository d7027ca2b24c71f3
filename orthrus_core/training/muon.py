"""The Muon optimiser: momentum, made orthogonal."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from orthrus_core.training.sharding import full_tensor, shard_like

# Keller Jordan's quintic iteration (https://kellerjordan.github.io/posts/muon/): its steepest form at zero.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NUM_ITERATIONS = 5
EPSILON = 1e-7


class Muon(torch.optim.Optimizer):
    """Muon over matrices, whole or sharded, updates scaled to the size of AdamW's.

    The arithmetic of `torch.optim.Muon` with `match_rms_adamw`. Its own version here, because that one runs
    the iteration on one matrix at a time and, on sharded matrices, with communication inside it.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        *,
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
    ) -> None:
        """parameters: matrices."""
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Update every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                self._step(parameters, group)

    def _step(self, parameters: list[Parameter], group: dict[str, Any]) -> None:
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(parameter.grad)
        gradients = [parameter.grad for parameter in parameters]
        momenta = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        updates = torch._foreach_lerp(gradients, momenta, group["momentum"])  # Nesterov's look ahead
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        for parameter, update in zip(parameters, updates, strict=True):
            whole = orthogonalise(full_tensor(update.to(torch.bfloat16)))
            scale = group["lr"] * 0.2 * math.sqrt(max(parameter.shape))
            parameter.add_(shard_like(whole, parameter), alpha=-scale)


def orthogonalise(matrix: Tensor) -> Tensor:
    """Return (M, N) BF16 near the orthogonal matrix next to `matrix`: singular values of about 0.7 to 1.2."""
    a, b, c = COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]
    X = (matrix.T if is_tall else matrix).to(torch.bfloat16)
    X = X / X.norm().clamp(min=EPSILON)
    for _ in range(NUM_ITERATIONS):
        gram = X @ X.T
        X = torch.addmm(X, torch.addmm(gram, gram, gram, beta=b, alpha=c), X, beta=a)
    return X.T if is_tall else X
