import copy
import json

import pytest
import torch
from safetensors import safe_open
from transformers import Qwen3ForCausalLM

from orthrus_core.errors import CheckpointError, ConfigError
from orthrus_core.models.config import OrthrusConfig
from orthrus_core.models.head import add_diffusion_head, remove_diffusion_head, reset_diffusion_head
from orthrus_core.models.model import OrthrusLM
from tests.small_models import small_backbone, small_orthrus

DIFFUSION_TENSORS = [
    f"model.layers.{layer}.self_attn.{name}_diff.weight"
    for layer in range(2)
    for name in ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm")
]


def head_of(model) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if "_diff" in name}


def test_the_head_has_the_published_tensor_names():
    model = add_diffusion_head(small_backbone(), block_size=4, mask_token_id=96)
    assert sorted(head_of(model)) == sorted(DIFFUSION_TENSORS)


def test_the_head_of_a_backbone_with_biases_has_biases():
    model = add_diffusion_head(small_backbone(attention_bias=True), block_size=4, mask_token_id=96)
    state = model.state_dict()
    name = "model.layers.1.self_attn.v_proj{}.bias"
    assert torch.equal(state[name.format("_diff")], state[name.format("")])


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_tensor_is_the_backbones_or_a_copy_of_its_counterpart(tied, dtype):
    backbone = small_backbone(tied=tied, dtype=dtype)
    model = add_diffusion_head(backbone, block_size=4, mask_token_id=96)
    original = backbone.state_dict()
    assert model.dtype == dtype
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == dtype
        assert torch.equal(tensor, original[name.replace("_diff", "")]), name


@pytest.mark.parametrize("tied", [True, False])
def test_the_output_head_stays_tied_or_untied(tied):
    model = add_diffusion_head(small_backbone(tied=tied), block_size=4, mask_token_id=96)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied


def test_the_backbone_is_neither_changed_nor_shared():
    backbone = small_backbone()
    before = copy.deepcopy(backbone.state_dict())
    config = backbone.config.to_dict()
    model = add_diffusion_head(backbone, block_size=4, mask_token_id=96)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    model.generation_config.max_new_tokens = 3
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())
    assert backbone.config.to_dict() == config
    assert backbone.generation_config.max_new_tokens is None


def test_the_config_is_the_backbones_with_the_fields_of_the_head():
    backbone = small_backbone(eos_token_id=[3, 4], use_sliding_window=True, sliding_window=7)
    fields = add_diffusion_head(backbone, block_size=5, mask_token_id=9).config.to_dict()
    head = {"block_size": 5, "mask_token_id": 9, "backbone_type": "qwen3", "has_head": True}
    head |= {"model_type": "orthrus", "dtype": "float32"}
    architectures = {"architectures": ["OrthrusLM"]}
    assert fields | architectures == backbone.config.to_dict() | head | architectures


def test_the_generation_config_is_kept():
    backbone = small_backbone()
    backbone.generation_config.eos_token_id = [5, 6]
    model = add_diffusion_head(backbone, block_size=4, mask_token_id=96)
    assert model.generation_config.eos_token_id == [5, 6]


def test_the_attention_implementation_is_kept():
    backbone = small_backbone(attn_implementation="eager")
    model = add_diffusion_head(backbone, block_size=4, mask_token_id=96)
    assert model.config._attn_implementation == "eager"


def test_the_model_comes_in_evaluation_mode():
    assert not add_diffusion_head(small_backbone().train(), block_size=4, mask_token_id=96).training


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_model_is_on_the_backbones_device():
    model = add_diffusion_head(small_backbone().to("cuda"), block_size=4, mask_token_id=96)
    assert {parameter.device.type for parameter in model.parameters()} == {"cuda"}


def test_the_head_is_17_percent_of_a_model_of_1_7_billion_parameters():
    config = OrthrusConfig(
        hidden_size=2048,
        intermediate_size=6144,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        tie_word_embeddings=True,
        mask_token_id=151669,
    )
    with torch.device("meta"):
        model = OrthrusLM(config)
    head = sum(parameter.numel() for name, parameter in model.named_parameters() if "_diff" in name)
    assert head == 28 * (2 * 2048 * 2048 + 2 * 2048 * 1024 + 2 * 128)
    assert head / sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(0.17, abs=0.001)


def test_resetting_the_head_copies_the_ar_projections_again():
    model = small_orthrus(noise=0.3)
    reset_diffusion_head(model)
    state = model.state_dict()
    assert all(torch.equal(state[name], state[name.replace("_diff", "")]) for name in DIFFUSION_TENSORS)


def test_a_model_that_has_a_head_is_refused():
    with pytest.raises(ConfigError, match="takes a plain backbone; OrthrusLM has a head"):
        add_diffusion_head(small_orthrus(), block_size=4, mask_token_id=96)


@pytest.mark.parametrize("fields", [{"block_size": 1}, {"mask_token_id": 98}, {"mask_token_id": -1}])
def test_a_head_that_cannot_draft_is_refused(fields):
    with pytest.raises(CheckpointError, match=f"config.{next(iter(fields))} "):
        add_diffusion_head(small_backbone(), **{"block_size": 4, "mask_token_id": 96} | fields)


def test_without_its_head_the_model_is_the_backbone_again():
    backbone = small_backbone(eos_token_id=7, tied=False)
    plain = remove_diffusion_head(add_diffusion_head(backbone, block_size=4, mask_token_id=96))
    assert type(plain) is Qwen3ForCausalLM
    assert plain.config.model_type == "qwen3"
    assert not {"block_size", "mask_token_id"} & plain.config.to_dict().keys()
    assert plain.generation_config.eos_token_id == backbone.generation_config.eos_token_id
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(plain(ids).logits, backbone(ids).logits)


def test_a_saved_backbone_holds_nothing_of_the_head(tmp_path):
    remove_diffusion_head(small_orthrus()).save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as tensors:
        assert not [name for name in tensors.keys() if "_diff" in name]  # noqa: SIM118
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["Qwen3ForCausalLM"]


def test_a_random_head_has_matrices_of_its_own_and_the_norms_of_the_backbone():
    backbone = small_backbone(attention_bias=True, initializer_range=0.3, hidden_size=128)
    model = add_diffusion_head(backbone, block_size=4, mask_token_id=96, init="random", seed=3)
    own = backbone.state_dict()
    for name, tensor in head_of(model).items():
        if "norm" in name:
            assert torch.equal(tensor, own[name.replace("_diff", "")])
        elif name.endswith("bias"):
            assert not tensor.any()
        else:
            assert tensor.std().item() == pytest.approx(0.3, rel=0.1)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in own.items())


def test_a_random_head_is_a_function_of_its_seed():
    def head(seed: int) -> list[torch.Tensor]:
        model = add_diffusion_head(small_backbone(), block_size=4, mask_token_id=96, init="random", seed=seed)
        return [tensor for name, tensor in head_of(model).items() if "proj" in name]

    assert all(torch.equal(one, same) for one, same in zip(head(1), head(1), strict=True))
    assert not any(torch.equal(one, other) for one, other in zip(head(1), head(2), strict=True))
