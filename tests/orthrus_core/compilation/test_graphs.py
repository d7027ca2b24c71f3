"""CUDA graphs of forwards."""

import pytest
import torch

from orthrus_core.compilation.graphs import GraphedForward
from orthrus_core.errors import ConfigError


def test_a_cpu_is_refused():
    with pytest.raises(ConfigError, match="CUDA graphs need a CUDA device, got cpu"):
        GraphedForward(lambda: (torch.zeros(1),), device=torch.device("cpu"))


@pytest.mark.gpu
def test_a_replay_sees_what_was_written_into_the_input_buffers():
    device = torch.device("cuda")
    numbers = torch.zeros(4, device=device)
    graph = GraphedForward(lambda: (numbers * 2, numbers.sum()), device=device)
    numbers.copy_(torch.arange(4.0))
    double, total = graph.replay()
    assert double.tolist() == [0, 2, 4, 6]
    assert total.item() == 6


@pytest.mark.gpu
def test_graphs_of_one_pool_leave_each_other_s_outputs_alone():
    device = torch.device("cuda")
    numbers = torch.arange(1000.0, device=device)
    first = GraphedForward(lambda: ((numbers + 1).cumsum(0),), device=device)
    second = GraphedForward(lambda: ((numbers - 1).cumsum(0),), device=device, pool=first.pool)
    (ahead,) = second.replay()
    first.replay()
    assert torch.equal(ahead, (numbers - 1).cumsum(0))


@pytest.mark.gpu
def test_results_go_where_the_caller_says():
    device = torch.device("cuda")
    numbers, target = torch.arange(4.0, device=device), torch.zeros(10, device=device)
    graph = GraphedForward(lambda: (numbers * 2,), device=device, new_outputs=lambda results: (target[:4],))
    graph.replay()
    assert target.tolist() == [0, 2, 4, 6, 0, 0, 0, 0, 0, 0]
