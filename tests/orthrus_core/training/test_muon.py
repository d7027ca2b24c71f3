import pytest
import torch
from torch.nn import Parameter

from orthrus_core.training import muon
from orthrus_core.training.muon import Muon, orthogonalise

SHAPES = [(12, 12), (4, 12), (12, 4), (12, 12)]


def parameters(seed: int = 0) -> list[Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def take_steps(own: list[Parameter], optimizer: torch.optim.Optimizer, num_steps: int) -> None:
    for step in range(num_steps):
        for parameter, gradient in zip(own, parameters(seed=step + 1), strict=True):
            parameter.grad = gradient.detach()
        optimizer.step()


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_steps_are_those_of_torch(weight_decay):
    own, expected = parameters(), parameters()
    take_steps(own, Muon(own, lr=0.1, weight_decay=weight_decay), 4)
    reference = torch.optim.Muon(expected, lr=0.1, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
    take_steps(expected, reference, 4)
    for parameter, other in zip(own, expected, strict=True):
        # 0.1 * 0.2 * sqrt(12) a step in each singular direction; BF16 products in another order: 1 % of it
        torch.testing.assert_close(parameter, other, atol=0.01 * 4 * 0.07, rtol=0)


@pytest.mark.parametrize("shape", [(6, 6), (3, 9), (9, 3)])
def test_singular_values_end_near_one(shape):
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(5, *shape, generator=generator)
    values = torch.linalg.svdvals(orthogonalise(matrices).float())
    # a matrix near to rank-deficient keeps a small one: the iteration has five rounds
    assert values.max() < 1.3
    assert values.median() > 0.6


def test_a_matrix_does_not_depend_on_those_beside_it(monkeypatch):
    together, alone = parameters(), parameters()
    take_steps(together, Muon(together, lr=0.1), 2)
    monkeypatch.setattr(muon, "MAX_ELEMENTS", 1)
    take_steps(alone, Muon(alone, lr=0.1), 2)
    for parameter, other in zip(together, alone, strict=True):
        torch.testing.assert_close(parameter, other, atol=1e-3, rtol=0)


def test_a_parameter_without_gradient_stays():
    own = parameters()
    optimizer = Muon(own, lr=0.1)
    own[0].grad = torch.ones_like(own[0])
    optimizer.step()
    assert not torch.equal(own[0], parameters()[0])
    assert torch.equal(own[3], parameters()[3])
