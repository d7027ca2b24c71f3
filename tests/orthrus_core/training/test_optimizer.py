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
