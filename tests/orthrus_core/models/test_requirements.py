"""What a backbone without the needed parts is told, and how an untested one is tried."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel

from orthrus_core import Engine, EngineConfig, SamplingParams
from orthrus_core.errors import CheckpointError, ConfigError
from orthrus_core.models.config import config_class
from orthrus_core.models.head import add_diffusion_head
from orthrus_core.models.loading import load_model
from orthrus_core.models.model import model_class
from tests.orthrus_core.models.backbones import COMMON, new_backbone

SMALL: dict[str, Any] = COMMON | {"hidden_size": 64, "num_hidden_layers": 1}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
LATENT = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
}


def random_model(model_type: str, **fields) -> PreTrainedModel:
    config = AutoConfig.for_model(model_type, **SMALL | fields)
    auto: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return auto.from_config(config).float().eval()


def refusal(backbone: PreTrainedModel) -> str:
    with pytest.raises(ConfigError) as caught:
        add_diffusion_head(backbone, block_size=4, mask_token_id=96)
    return str(caught.value)


@pytest.mark.parametrize(
    ("model_type", "fields", "missing"),
    [
        ("phi3", {}, "its attention fuses q, k and v into qkv_proj: it needs q_proj, k_proj, v_proj"),
        (
            "gpt_neox",
            {},
            "its attention fuses q, k and v into query_key_value: it needs q_proj, k_proj, v_proj",
        ),
        (
            "gpt2",
            {"n_embd": 64, "n_head": 4, "n_layer": 1},
            "its attention takes no rotary position_embeddings",
        ),
        ("opt", {"ffn_dim": 64, "word_embed_proj_dim": 64}, "its attention has no o_proj"),
        (
            "deepseek_v3",
            LATENT | {"num_experts_per_tok": 2},
            "it has multi-head latent attention (q_a_proj, q_a_layernorm, q_b_proj, kv_a_proj_with_mqa",
        ),
        ("gpt_oss", EXPERTS, "its attention modules have attention sinks (sinks)"),
        ("diffllama", {}, "its attention modules have parameters of their own (lambda_q1, "),
        (
            "t5",
            {"d_model": 64, "num_layers": 1, "d_kv": 16, "d_ff": 64},
            "it is an encoder-decoder, and the head belongs to a decoder-only model",
        ),
        ("mamba", {}, "it has state-space or convolution layers (mixer)"),
        ("jamba", EXPERTS, "it has state-space or convolution layers (mamba)"),
        ("gemma4_text", {"head_dim": 16}, "its layers differ in shape (config.per_layer_config)"),
        (
            "llama4_text",
            EXPERTS | {"head_dim": 16},
            "it has attention in chunks (config.attention_chunk_size)",
        ),
        ("stablelm", {}, "its attention does not go through transformers' AttentionInterface"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "its rope_type is dynamic, whose angles depend on the longest sequence of a forward",
        ),
    ],
)
def test_what_is_missing_is_named(model_type, fields, missing):
    backbone = random_model(model_type, **fields)
    error = refusal(backbone)
    assert error.startswith(f"{type(backbone).__name__} cannot carry a diffusion head: ")
    assert missing in error


def test_a_layer_that_attends_across_is_named():
    backbone = new_backbone("llama")
    backbone.model.layers[1].cross_attn = torch.nn.Linear(4, 4)
    assert refusal(backbone).endswith("it has cross-attention (cross_attn)")


def test_a_projection_of_another_size_is_named():
    backbone = new_backbone("llama")
    backbone.model.layers[1].self_attn.q_proj = torch.nn.Linear(64, 128)
    assert refusal(backbone).endswith("q_proj has 128 outputs instead of 64 (heads times head size)")


def test_everything_in_the_way_is_named_at_once():
    error = refusal(random_model("bloom"))
    assert "query_key_value" in error
    assert "no rotary position_embeddings" in error
    assert "no decoder layers at model.layers" in error


def test_a_plain_checkpoint_of_an_unsupported_architecture_is_refused_before_its_weights_are_read(tmp_path):
    random_model("phi3").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"never read")
    with pytest.raises(CheckpointError) as caught:
        load_model(tmp_path, needs_head=False)
    assert str(caught.value).startswith(f"{tmp_path}: Phi3ForCausalLM cannot carry a diffusion head: ")


# Architectures that the tests do not cover


def new_engine(model, mode: str) -> Engine:
    options = {"max_sequences": 2, "max_context": 64, "token_budget": 16, "compile": "off"}
    return Engine(model, EngineConfig(mode=mode, **options))


@pytest.mark.parametrize("model_type", ["olmo2", "mixtral"])
def test_an_untested_architecture_that_agrees_in_a_trial_gets_a_head(model_type):
    backbone = random_model(model_type, **EXPERTS, num_hidden_layers=2)
    model = add_diffusion_head(backbone, block_size=4, mask_token_id=96)
    params = SamplingParams(max_new_tokens=12, ignore_eos=True)
    consensus, plain = (
        [completion.token_ids for completion in new_engine(model, mode).generate([[1, 2], [3]], params)]
        for mode in ("consensus", "autoregressive")
    )
    assert consensus == plain
    expected = backbone.generate(torch.tensor([[1, 2]]), max_new_tokens=12, do_sample=False)
    assert consensus[0] == expected[0, 2:].tolist()


def test_an_untested_architecture_whose_logits_differ_in_the_trial_is_refused():
    error = refusal(random_model("granite", logits_scaling=3.0))
    assert error.startswith("a granite backbone cannot carry a diffusion head: the AR view's logits are off")


def test_dropout_of_a_backbone_has_no_effect_on_its_views():
    backbone = random_model("seed_oss", head_dim=16, residual_dropout=0.5, attention_dropout=0.5)
    assert add_diffusion_head(backbone, block_size=4, mask_token_id=96).config.backbone_type == "seed_oss"


# Types


@pytest.mark.parametrize("get", [config_class, model_class])
@pytest.mark.parametrize("backbone_type", ["no_such_model", "orthrus"])
def test_a_backbone_type_that_transformers_does_not_know_is_refused(get, backbone_type):
    with pytest.raises(CheckpointError, match=f"a backbone of type '{backbone_type}', which this version of"):
        get(backbone_type)


def test_a_type_without_a_causal_lm_is_refused():
    with pytest.raises(CheckpointError, match="transformers has no causal LM for a backbone of type 'vit'"):
        model_class("vit")


def test_each_backbone_type_has_one_model_class():
    assert model_class("llama") is model_class("llama")
    assert model_class("llama").__name__ == "OrthrusLlamaForCausalLM"
    assert model_class("qwen3").__name__ == "OrthrusLM"
