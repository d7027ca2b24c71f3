"""Weights of one byte in a model."""

import pytest
import torch
from transformers import Qwen3MoeConfig

from orthrus_core import Engine, EngineConfig, SamplingParams
from orthrus_core.errors import ConfigError
from orthrus_core.linear.quantised import QuantisedLinear
from orthrus_core.models.loading import load_model
from orthrus_core.models.weights import check_weights, quantise
from orthrus_core.readiness.memory import model_bytes, skeleton
from tests.orthrus_core.models.adapters import save_adapter
from tests.orthrus_core.models.directories import save
from tests.small_models import small_backbone, small_orthrus

PROMPTS = [[1, 2, 3], [40, 41, 42, 43, 44], [7] * 20]
PARAMS = SamplingParams(max_new_tokens=24, logprobs=True)
CONFIG = EngineConfig(max_context=64, max_sequences=2, token_budget=32)


def byte_model(weights="int8", *, output_head=False, **fields):
    model = small_orthrus(**fields)
    quantise(model, weights, output_head=output_head)
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weights", ["int8", "fp8"])
def test_consensus_is_the_quantised_models_own_ar_bit_for_bit(weights, dtype):
    model = byte_model(weights, output_head=True, dtype=dtype, sameness=0.2, attention_bias=True)
    texts = []
    for changes in ({}, {"mode": "autoregressive", "max_sequences": 1}):
        engine = Engine(model, CONFIG.model_copy(update=changes))
        assert engine.exactness == "exact"
        done = engine.generate(PROMPTS, PARAMS)
        texts.append([(one.token_ids, one.logprobs) for one in done])
    assert texts[0] == texts[1]


def test_layers_of_both_views_become_bytes_and_everything_else_stays():
    model = byte_model(dtype=torch.bfloat16)
    kinds = {name: parameter.dtype for name, parameter in model.named_parameters()}
    assert {name for name, kind in kinds.items() if kind is torch.int8} == {
        f"model.layers.{layer}.{name}.weight"
        for layer in range(2)
        for name in (
            *(f"self_attn.{part}_proj{view}" for part in "qkvo" for view in ("", "_diff")),
            *(f"mlp.{part}_proj" for part in ("gate", "up", "down")),
        )
    }
    assert {kind for name, kind in kinds.items() if "scale" in name} == {torch.float32}
    assert model.dtype == kinds["model.embed_tokens.weight"] == torch.bfloat16
    views = model.model.layers[0].self_attn._views
    assert type(views["ar"].q_proj) is type(views["diffusion"].q_proj) is QuantisedLinear


def test_the_output_head_is_left_out_unless_asked_for_and_the_embedding_always():
    assert type(byte_model().lm_head) is torch.nn.Linear
    model = byte_model(output_head=True)
    assert type(model.lm_head) is QuantisedLinear
    assert model.model.embed_tokens.weight.dtype == torch.float32


@pytest.mark.parametrize("output_head", [False, True])
def test_bytes_are_planned_from_the_config_alone(output_head):
    model = byte_model(dtype=torch.bfloat16, output_head=output_head)
    planned = skeleton(small_orthrus().config, torch.bfloat16)
    whole = sum(model_bytes(planned))
    quantise(planned, "int8", output_head=output_head)
    assert model_bytes(planned) == model_bytes(model)
    assert sum(model_bytes(planned)) < whole


def test_loading_quantises_what_an_adapter_made(tmp_path):
    model = small_orthrus()
    checkpoint, adapter = save(model, tmp_path / "model"), save_adapter(tmp_path / "lora", small_backbone())
    expected = load_model(checkpoint, lora=adapter)
    quantise(expected, "fp8", output_head=True)
    loaded = load_model(checkpoint, lora=adapter, weights="fp8", quantise_output_head=True)
    bits = [{name: x.float() for name, x in one.state_dict().items()} for one in (expected, loaded)]
    assert bits[0].keys() == bits[1].keys()
    assert all(torch.equal(bits[1][name], x) for name, x in bits[0].items())
    assert type(loaded.lm_head) is QuantisedLinear


def test_a_mixture_of_experts_is_refused():
    with pytest.raises(ConfigError, match="model.weights: int8 is for dense models, and this one is a mix"):
        check_weights(Qwen3MoeConfig(), "int8")
    check_weights(Qwen3MoeConfig(), "auto")
