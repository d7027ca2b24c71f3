"""LoRA adapters added at load time."""

import pytest
import torch
from safetensors.torch import load_file

from orthrus_core import Engine, EngineConfig, SamplingParams, load_model
from orthrus_core.errors import CheckpointError
from orthrus_core.models.loading import check_lora
from tests.orthrus_core.models.adapters import save_adapter
from tests.orthrus_core.models.directories import assert_same_bits, save
from tests.small_models import small_backbone, small_orthrus

Q = "model.layers.1.self_attn.q_proj"


@pytest.fixture
def checkpoint(tmp_path):
    return save(small_orthrus(), tmp_path / "model")


@pytest.fixture
def adapter(tmp_path):
    return save_adapter(tmp_path / "lora", small_backbone())


def product(directory, name: str) -> torch.Tensor:
    tensors = load_file(directory / "adapter_model.safetensors")
    A, B = (tensors[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
    return torch.stack([sum(B[row, r] * A[r] for r in range(len(A))) for row in range(len(B))])


@pytest.mark.parametrize(
    ("fields", "scale"),
    [
        ({}, 6 / 3),
        ({"use_rslora": True}, 6 / 3**0.5),
        ({"alpha_pattern": {"layers.1.self_attn.q_proj": 9}}, 9 / 3),
        ({"alpha_pattern": {"proj": 9, "v_proj": 9}}, 6 / 3),
    ],
)
def test_a_weight_gets_its_product_times_the_scale(checkpoint, tmp_path, fields, scale):
    directory = save_adapter(tmp_path / "lora", small_backbone(), **fields)
    before, after = (load_model(checkpoint, lora=lora).get_submodule(Q).weight for lora in (None, directory))
    torch.testing.assert_close(after - before, scale * product(directory, Q), atol=1e-6, rtol=1e-5)


def test_the_head_and_all_that_is_not_named_keep_their_bits(checkpoint, adapter):
    before, after = (load_model(checkpoint, lora=lora).state_dict() for lora in (None, adapter))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {
        f"model.layers.{layer}.{name}.weight"
        for layer in (0, 1)
        for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj")
    }


def test_a_plain_backbone_takes_one_too(tmp_path, adapter):
    backbone = small_backbone()
    save(backbone, tmp_path / "plain")
    merged = load_model(tmp_path / "plain", needs_head=False, lora=adapter)
    expected = backbone.get_submodule(Q).weight + 2.0 * product(adapter, Q)
    torch.testing.assert_close(merged.get_submodule(Q).weight, expected, atol=1e-6, rtol=1e-5)


def test_bfloat16_weights_are_rounded_once(tmp_path, adapter):
    model = small_orthrus(dtype=torch.bfloat16)
    merged = load_model(save(model, tmp_path / "half"), lora=adapter).get_submodule(Q).weight
    exact = model.get_submodule(Q).weight.double() + 2.0 * product(adapter, Q).double()
    assert torch.equal(merged, exact.bfloat16())


def test_consensus_is_ar_of_the_merged_model_bit_for_bit(checkpoint, adapter):
    torch.set_num_threads(1)
    prompts = [[5, 9, 2], [11, 3, 8, 20, 41], [60] * 7]
    texts = []
    for mode in ("consensus", "autoregressive"):
        engine = Engine(load_model(checkpoint, lora=adapter), EngineConfig(mode=mode, max_context=128))
        done = engine.generate(prompts, SamplingParams(max_new_tokens=40, logprobs=True))
        texts.append([(one.token_ids, one.logprobs) for one in done])
    assert texts[0] == texts[1]
    plain = Engine(load_model(checkpoint), EngineConfig(max_context=128))
    plain_texts = [one.token_ids for one in plain.generate(prompts, SamplingParams(max_new_tokens=40))]
    assert plain_texts != [tokens for tokens, _ in texts[0]]


@pytest.mark.parametrize(
    "fields", [{}, {"use_rslora": True}, {"alpha_pattern": {"layers.1.self_attn.q_proj": 9, "proj": 3}}]
)
def test_it_is_what_peft_merges(tmp_path, fields):
    peft = pytest.importorskip("peft")
    adapter = save_adapter(tmp_path / "lora", small_backbone(), **fields)
    backbone = small_backbone()
    save(backbone, tmp_path / "plain")
    merged = peft.PeftModel.from_pretrained(backbone, adapter).merge_and_unload().state_dict()
    own = load_model(tmp_path / "plain", needs_head=False, lora=adapter).state_dict()
    for name, tensor in merged.items():
        torch.testing.assert_close(own[name], tensor, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"use_dora": True}, r"is no plain LoRA adapter \(use_dora: True\): merge it with peft"),
        ({"peft_type": "IA3"}, r"\(peft_type: IA3\)"),
        ({"modules_to_save": ["embed_tokens"]}, r"\(modules_to_save: \['embed_tokens'\]\)"),
        ({"init_lora_weights": "pissa"}, r"\(init_lora_weights: pissa\)"),
        (
            {"tensors": {"base_model.model.lm_head.weight": torch.zeros(2, 2)}},
            "has 1 tensors that are no low-rank products, such as base_model.model.lm_head.weight",
        ),
        (
            {"tensors": {"base_model.model.x.lora_A.weight": torch.zeros(2, 2)}},
            "has one of lora_A and lora_B of x only",
        ),
    ],
)
def test_other_kinds_of_adapters_are_refused(checkpoint, tmp_path, fields, fault):
    directory = save_adapter(tmp_path / "lora", small_backbone(), **fields)
    for check in (check_lora, lambda path, lora: load_model(path, lora=lora)):
        with pytest.raises(CheckpointError, match=fault):
            check(checkpoint, directory)


@pytest.mark.parametrize(
    ("other", "targets", "fault"),
    [
        ({"hidden_size": 64}, ("q_proj",), r"is of another model: its update of model\.layers\.0\.self_attn"),
        (
            {"num_layers": 3},
            ("q_proj",),
            r"updates model\.layers\.2\.self_attn\.q_proj, and the model has no",
        ),
        ({}, ("lm_head",), "updates lm_head, which is the embedding too"),
    ],
)
def test_an_adapter_of_another_model_is_refused(checkpoint, tmp_path, other, targets, fault):
    directory = save_adapter(tmp_path / "lora", small_backbone(**other), targets=targets)
    for check in (check_lora, lambda path, lora: load_model(path, lora=lora)):
        with pytest.raises(CheckpointError, match=fault):
            check(checkpoint, directory)


@pytest.mark.parametrize("damage", ["no config", "no weights", "no safetensors"])
def test_a_directory_that_holds_none_is_refused(checkpoint, adapter, damage):
    if damage == "no config":
        (adapter / "adapter_config.json").unlink()
    elif damage == "no weights":
        (adapter / "adapter_model.safetensors").unlink()
    else:
        (adapter / "adapter_model.safetensors").write_bytes(b"pickle")
    with pytest.raises(CheckpointError, match="is no LoRA adapter as peft saves it"):
        load_model(checkpoint, lora=adapter)


def test_untied_output_layers_can_be_updated(tmp_path):
    model = small_orthrus(tied=False)
    directory = save_adapter(tmp_path / "lora", small_backbone(tied=False), targets=("lm_head",))
    merged = load_model(save(model, tmp_path / "model"), lora=directory)
    assert not torch.equal(merged.lm_head.weight, model.lm_head.weight)
    assert torch.equal(merged.model.embed_tokens.weight, model.model.embed_tokens.weight)
    assert_same_bits(merged.model, model.model)
