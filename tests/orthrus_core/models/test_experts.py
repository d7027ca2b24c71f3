import pytest
import torch
from torch import Tensor

from orthrus_core import Engine, EngineConfig
from orthrus_core.engine import runner as runner_module
from orthrus_core.models.experts import make_experts_row_wise, row_wise_experts
from tests.orthrus_core.models.backbones import new_backbone, with_head
from tests.small_models import small_orthrus

CONFIG = EngineConfig(max_sequences=3, max_context=96, token_budget=32, page_size=16, compile="off")


def routed(T: int, *, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Rows (T, D), expert ids (T, k) and weights (T, k)."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(T, 48, generator=generator)
    weights, ids = torch.rand(T, 6, generator=generator).topk(2)
    return rows, ids, weights


def experts_of(name: str = "qwen3-moe"):
    return new_backbone(name).model.layers[1].mlp.experts


def test_row_wise_experts_compute_what_each_expert_alone_gives():
    experts = experts_of()
    rows, ids, weights = routed(5)
    expected = torch.zeros_like(rows)
    for row, expert, weight in ((r, int(ids[r, j]), weights[r, j]) for r in range(5) for j in range(2)):
        gate, up = (experts.gate_up_proj[expert] @ rows[row]).chunk(2)
        expected[row] += weight * (experts.down_proj[expert] @ (torch.nn.functional.silu(gate) * up))
    torch.testing.assert_close(row_wise_experts(experts, rows, ids, weights), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_has_the_same_bits_whatever_the_other_rows_ask_for(dtype):
    experts = experts_of().to(dtype)
    rows, ids, weights = routed(16)
    alone = row_wise_experts(experts, rows.to(dtype), ids, weights.to(dtype))
    other_rows, other_ids, other_weights = routed(16, seed=1)
    for mixed, own in ((other_rows, rows), (other_ids, ids), (other_weights, weights)):
        mixed[3] = own[7]
    beside = row_wise_experts(experts, other_rows.to(dtype), other_ids, other_weights.to(dtype))
    assert torch.equal(beside[3], alone[7])


def test_an_engine_makes_experts_row_wise_and_passes_its_own_check():
    model = with_head("qwen3-moe")
    assert Engine(model, CONFIG).exactness == "exact"
    assert model.model.layers[0].mlp.experts.config._experts_implementation == "orthrus_rows"


def test_experts_of_an_unknown_build_are_left_alone_with_a_warning(caplog):
    model = with_head("qwen3-moe")
    before = model.config._experts_implementation
    model.model.layers[1].mlp.experts.has_bias = True
    Engine(model, CONFIG.model_copy(update={"self_check": False}))
    assert model.config._experts_implementation == before
    assert "its experts compute rows in groups" in caplog.text


def test_the_experts_of_transformers_give_other_bits_in_other_company(monkeypatch):
    monkeypatch.setattr(runner_module, "make_experts_row_wise", lambda model: True)
    model = with_head("qwen3-moe", hidden_size=64, moe_intermediate_size=64)
    model.config._experts_implementation = "eager"
    assert Engine(model, CONFIG).exactness == "unverified"


def test_a_model_without_experts_stays_as_it_is():
    model = small_orthrus()
    before = model.config._experts_implementation
    assert make_experts_row_wise(model)
    assert model.config._experts_implementation == before
