import pytest
import torch
from torch.nn import Parameter

from orthrus_core.training.config import OptimizerConfig
from orthrus_core.training.optimizer import ScheduledOptimizer, lr_factor


def test_the_learning_rate_rises_then_falls_linearly():
    config = OptimizerConfig(warmup=0.2, decay="linear", final_lr=0.1)
    assert lr_factor(0.1, config) == pytest.approx(0.5)
    assert lr_factor(0.2, config) == pytest.approx(1.0)
    assert lr_factor(0.6, config) == pytest.approx(0.55)
    assert lr_factor(1.5, config) == pytest.approx(0.1)


def test_a_cosine_is_halfway_down_in_the_middle():
    config = OptimizerConfig(warmup=0.0, decay="cosine")
    assert lr_factor(0.5, config) == pytest.approx(0.5)
    assert lr_factor(0.25, config) == pytest.approx(0.5 + 0.5 * 0.5**0.5)


def test_matrices_move_by_muon_and_the_rest_by_adamw():
    matrix, embedding, norm = (Parameter(torch.ones(shape)) for shape in [(4, 4), (4, 4), (4,)])
    optimizer = ScheduledOptimizer(
        [("q_proj.weight", matrix), ("embed_tokens.weight", embedding), ("norm.weight", norm)],
        OptimizerConfig(muon_lr=1e-3, adamw_lr=1e-2, warmup=0.0),
    )
    for parameter in (matrix, embedding, norm):
        parameter.grad = torch.ones_like(parameter)
    optimizer.step(0.0, grad_norm=0.1, weight=1.0)
    # AdamW's first step has the size of the learning rate in every element.
    torch.testing.assert_close(embedding, torch.full((4, 4), 0.99))
    torch.testing.assert_close(norm, torch.full((4,), 0.99))
    # Muon orthogonalises: a gradient of rank one becomes an update of rank one, 0.2 * sqrt(4) * lr in norm.
    change = torch.linalg.matrix_norm(1 - matrix.detach())
    assert 0.5 < change / (0.2 * 2 * 1e-3) < 1.5


def test_gradients_are_clipped_and_cleared():
    norm = Parameter(torch.ones(4))
    optimizer = ScheduledOptimizer([("norm.weight", norm)], OptimizerConfig(max_grad_norm=1.0))
    norm.grad = torch.full((4,), 3.0)
    assert optimizer.squared_norm()[1].item() == pytest.approx(36.0)
    optimizer.step(0.5, grad_norm=6.0, weight=1.0)
    assert norm.grad is None


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_kind_adamw_is_adamw_on_everything_with_decay_on_matrices_alone(weight_decay):
    start = [torch.full((3, 2), 2.0), torch.full((3,), 2.0)]
    own, expected = ([Parameter(value.clone()) for value in start] for _ in range(2))
    config = OptimizerConfig(
        kind="adamw", adamw_lr=1e-2, weight_decay=weight_decay, warmup=0.0, max_grad_norm=1e6
    )
    optimizer = ScheduledOptimizer(zip(["q_proj.weight", "norm.weight"], own, strict=True), config)
    reference = torch.optim.AdamW(
        [
            {"params": [expected[0]], "weight_decay": weight_decay},
            {"params": [expected[1]], "weight_decay": 0.0},
        ],
        lr=1e-2,
        betas=(0.9, 0.95),
    )
    for step in range(3):
        for parameter, other in zip(own, expected, strict=True):
            other.grad = torch.linspace(-1, step + 1, other.numel()).view_as(other)
            parameter.grad = 4.0 * other.grad  # sums over a weight of 4
        optimizer.step(0.0, grad_norm=1.0, weight=4.0)
        reference.step()
    for parameter, other in zip(own, expected, strict=True):
        torch.testing.assert_close(parameter, other, rtol=1e-6, atol=1e-7)


def test_the_papers_recipe_starts_at_2e_4_and_ends_at_a_tenth():
    config = OptimizerConfig(kind="adamw", adamw_lr=2e-4, decay="cosine", final_lr=0.1, warmup=0.05)
    assert 2e-4 * lr_factor(0.025, config) == pytest.approx(1e-4)
    assert 2e-4 * lr_factor(0.05, config) == pytest.approx(2e-4)
    assert 2e-4 * lr_factor(1.0, config) == pytest.approx(2e-5)


def test_a_norm_above_the_limit_scales_the_update_down():
    # plain numbers: momentum-free first step of AdamW has no size, so look at its first moment
    norm = Parameter(torch.ones(4))
    optimizer = ScheduledOptimizer([("norm.weight", norm)], OptimizerConfig(max_grad_norm=2.0))
    norm.grad = torch.full((4,), 30.0)
    optimizer.step(0.5, grad_norm=6.0, weight=10.0)
    # 30 / 10 scaled by 2 / 6 is 1, of which the first moment takes a tenth
    torch.testing.assert_close(optimizer.state_dict()["norm.weight"]["exp_avg"], torch.full((4,), 0.1))
