"""An engine's twin of a model: other products, the same tensors."""

import pytest
import torch
from torch import nn

from orthrus_core import Engine, EngineConfig, SamplingParams
from orthrus_core.linear.backend import BackedLinear
from orthrus_core.linear.native import NativeLinear
from orthrus_core.models.linears import knows_rows, with_kernels
from tests.orthrus_core.models.backbones import new_backbone
from tests.small_models import small_orthrus

CONFIG = EngineConfig(max_context=64, max_sequences=2, token_budget=16, self_check=False)


def twin_of(model, dtype: torch.dtype = torch.float32):
    return with_kernels(model, NativeLinear(dtype))


def linears(model) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


def test_every_linear_layer_of_both_views_goes_through_the_backend():
    twin = twin_of(small_orthrus())
    assert linears(twin)
    assert all(type(layer) is BackedLinear for layer in linears(twin))
    attention = twin.model.layers[0].self_attn
    for view, name in (("ar", "q_proj"), ("diffusion", "q_proj_diff")):
        assert attention._views[view].q_proj is getattr(attention, name)


def test_the_model_stays_as_it_is_and_shares_its_tensors():
    model = small_orthrus()
    twin = twin_of(model)
    assert all(type(layer) is nn.Linear for layer in linears(model))
    ours, theirs = model.state_dict(keep_vars=True), twin.state_dict(keep_vars=True)
    assert ours.keys() == theirs.keys()
    assert all(theirs[name] is tensor for name, tensor in ours.items())


def test_weights_written_later_hold_for_the_twin():
    model = small_orthrus()
    twin = twin_of(model)
    rows = torch.randn(3, 48)
    before = twin.lm_head(rows)
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
    torch.testing.assert_close(twin.lm_head(rows), before * 2)
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach() * 0)
    assert not twin.lm_head(rows).any()


def test_hooks_of_the_model_run_in_the_twin():
    model = small_orthrus()
    twin = twin_of(model)
    model.lm_head.register_forward_hook(lambda _, __, out: out * 0)
    assert not twin.lm_head(torch.randn(3, 48)).any()


def test_layers_of_other_kinds_and_dtypes_stay():
    class Adapted(nn.Linear):
        pass

    model = small_orthrus()
    mlp = model.model.layers[0].mlp
    mlp.up_proj, mlp.down_proj = Adapted(48, 96), mlp.down_proj.double()
    twin = twin_of(model).model.layers[0].mlp
    assert twin.up_proj is not mlp.up_proj  # a module with its own forward, and the same one
    assert type(twin.up_proj) is Adapted
    assert twin.down_proj is mlp.down_proj
    assert type(twin.gate_proj) is BackedLinear


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fields", [{}, {"attention_bias": True}, {"tied": False}])
def test_consensus_is_ar_bit_for_bit_on_every_kind_of_layer(dtype, fields):
    model = small_orthrus(dtype=dtype, sameness=0.2, **fields)
    texts = [
        [completion.token_ids for completion in Engine(model, config).generate(PROMPTS, PARAMS)]
        for config in (CONFIG, CONFIG.model_copy(update={"mode": "autoregressive", "token_budget": 7}))
    ]
    assert texts[0] == texts[1]


PROMPTS = [[1, 2, 3], [40, 41, 42, 43, 44], [7] * 20]
PARAMS = SamplingParams(max_new_tokens=24)


@pytest.mark.parametrize(("name", "knows"), [("llama-3.1", False), ("qwen3-moe", True)])
def test_products_that_no_kernel_computes_may_know_how_many_rows_there_are(name, knows):
    model = new_backbone(name)
    assert knows_rows(model)
    assert knows_rows(with_kernels(model, NativeLinear(torch.float32))) == knows
