"""The Muon optimiser: momentum, made orthogonal."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from orthrus_core.training.sharding import full_tensor, shard_like

# Keller Jordan's quintic iteration (https://kellerjordan.github.io/posts/muon/): its steepest form at zero.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NUM_ITERATIONS = 5
MOMENTUM = 0.95
EPSILON = 1e-7
MAX_ELEMENTS = 1 << 26  # orthogonalised at a time: about half a gibibyte with the iteration's own tensors


class Muon(torch.optim.Optimizer):
    """Muon over matrices, whole or sharded, its updates scaled to the size of AdamW's.

    The arithmetic of `torch.optim.Muon` with `match_rms_adamw`. That one takes matrices one by one (16 of
    the demo's head: 9.1 ms, here 5.5 ms on one core), and communicates within the iteration where they are
    sharded; this one gathers a matrix once, in BF16. Every process then does the whole iteration.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter] | Iterable[dict[str, Any]],
        *,
        lr: float,
        weight_decay: float = 0.0,
    ) -> None:
        """parameters: matrices, or groups of them; each group whole or sharded."""
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if group["weight_decay"] and parameters:
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            for alike in _alike(parameters):
                updates = self._updates(alike)
                scale = group["lr"] * 0.2 * math.sqrt(max(alike[0].shape))
                for parameter, update in zip(alike, updates, strict=True):
                    parameter.add_(shard_like(update, parameter), alpha=-scale)

    def _updates(self, parameters: Sequence[Parameter]) -> Tensor:
        """(P, M, N) BF16 for P matrices of one shape, whole."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        momenta = [self._momentum_of(parameter) for parameter in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        ahead = torch._foreach_lerp(gradients, momenta, MOMENTUM)  # Nesterov
        return orthogonalise(torch.stack([full_tensor(update.to(torch.bfloat16)) for update in ahead]))

    def _momentum_of(self, parameter: Parameter) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return state["momentum_buffer"]


def orthogonalise(matrices: Tensor) -> Tensor:
    """Return the orthogonal matrices next to `matrices` (P, M, N), roughly: singular values of 0.7 to 1.2.

    BF16, as is the arithmetic.
    """
    a, b, c = COEFFICIENTS
    is_tall = matrices.shape[1] > matrices.shape[2]
    X = (matrices.mT if is_tall else matrices).to(torch.bfloat16)
    X = X / X.norm(dim=(1, 2), keepdim=True).clamp(min=EPSILON)
    for _ in range(NUM_ITERATIONS):
        gram = X @ X.mT
        X = torch.baddbmm(X, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), X, beta=a)
    return X.mT if is_tall else X


def _alike(parameters: Sequence[Parameter]) -> Iterator[list[Parameter]]:
    """Parameters of one shape, in the order given, as many as may be orthogonalised at a time."""
    by_shape: dict[torch.Size, list[Parameter]] = {}
    for parameter in parameters:
        by_shape.setdefault(parameter.shape, []).append(parameter)
    for shape, alike in by_shape.items():
        num_at_once = max(MAX_ELEMENTS // shape.numel(), 1)
        for start in range(0, len(alike), num_at_once):
            yield alike[start : start + num_at_once]
