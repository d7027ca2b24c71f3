"""The forward through the attention kernels that run on CUDA."""

import pytest
import torch

from orthrus_core.attention.plain import PlainAttention
from orthrus_core.attention.rows import Span
from orthrus_core.attention.spec import AttentionSpec
from orthrus_core.attention.triton_paged import KernelSizes, TritonBackend
from orthrus_core.cache import PagePool, PageTables
from orthrus_core.engine.runner import ModelRunner
from tests.small_models import small_orthrus


def runner_with(backend, model) -> ModelRunner:
    tables = PageTables(PagePool(20, 16), num_slots=2, pages_per_sequence=8)
    for slot in range(2):
        tables.grow(slot, 100)
    return ModelRunner(model, tables, backend=backend)


@pytest.mark.parametrize("view", ["ar", "diffusion"])
def test_logits_equal_those_of_slow_attention(kernel_device, view):
    model = small_orthrus().to(kernel_device)
    config = model.config
    heads = (config.num_attention_heads, config.num_key_value_heads, config.head_dim)
    spec = AttentionSpec(*heads, 16, 128, torch.float32, kernel_device)
    kernels = TritonBackend(spec, KernelSizes(queries=16, tile_cells=16, split_length=32, programs=4))
    fast, expected = (runner_with(backend, model) for backend in (kernels, PlainAttention(spec)))
    for first in range(0, 60, 12):
        spans = [Span(1, first, list(range(1, 13))), Span(0, first // 2, [7, 8])]
        mine, its = (
            runner.run(runner.lay_out(spans, view, token_budget=16), view).logits[:14]
            for runner in (fast, expected)
        )
        torch.testing.assert_close(mine, its, atol=1e-5, rtol=1e-4)


@pytest.mark.gpu
def test_replayed_forwards_of_both_views_and_several_budgets_leave_each_other_alone():
    device = torch.device("cuda")
    model = small_orthrus().to(device)
    config = model.config
    heads = (config.num_attention_heads, config.num_key_value_heads, config.head_dim)
    spec = AttentionSpec(*heads, 16, 128, torch.float32, device)
    fast, expected = (runner_with(backend, model) for backend in (TritonBackend(spec), PlainAttention(spec)))
    for first in range(0, 60, 12):
        for view, budget in (("diffusion", 32), ("ar", 16), ("diffusion", 16), ("ar", 64)):
            spans = [Span(1, first, list(range(1, 13))), Span(0, first // 2, [7, 8])]
            mine, its = (
                runner.run(runner.lay_out(spans, view, token_budget=budget), view).logits[:14]
                for runner in (fast, expected)
            )
            torch.testing.assert_close(mine, its, atol=1e-4, rtol=1e-3)
