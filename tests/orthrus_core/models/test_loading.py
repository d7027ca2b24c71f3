import json

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import orthrus_core
from orthrus_core.models import loading
from orthrus_core.models.model import OrthrusLM
from tests.orthrus_core.models.directories import (
    assert_same_bits,
    edit_config,
    edit_tensors,
    save,
)
from tests.small_models import small_orthrus

# Round trips


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_model_loads_with_the_same_bits(load, tied, dtype, tmp_path):
    model = small_orthrus(tied=tied, dtype=dtype)
    loaded = load(save(model, tmp_path))
    assert type(loaded) is OrthrusLM
    assert not loaded.training
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == tied
    assert_same_bits(loaded, model)


def test_a_checkpoint_in_many_shards_loads_with_the_same_bits(load, tmp_path):
    model = small_orthrus(tied=False)
    save(model, tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 5
    assert_same_bits(load(tmp_path), model)


def test_a_loaded_model_gives_the_logits_of_the_saved_one(checkpoint):
    input_ids = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
    expected = small_orthrus()(input_ids).logits
    assert torch.equal(orthrus_core.load_model(checkpoint)(input_ids).logits, expected)


def test_the_saved_config_is_of_the_published_layout(tmp_path):
    save(small_orthrus(block_size=32), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "orthrus"
    assert config["architectures"] == ["OrthrusLM"]
    assert config["block_size"] == 32
    assert config["mask_token_id"] == 96


def test_the_saved_tensors_have_the_published_names(checkpoint):
    names = load_file(checkpoint / "model.safetensors").keys()
    assert {name for name in names if name.startswith("model.layers.0.self_attn.")} == {
        f"model.layers.0.self_attn.{name}{suffix}.weight"
        for name in ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm")
        for suffix in ("", "_diff")
    }
    assert "lm_head.weight" not in names


def test_the_generation_config_survives_saving_and_loading(load, tmp_path):
    model = small_orthrus()
    model.generation_config.eos_token_id = [5, 6]
    assert load(save(model, tmp_path)).generation_config.eos_token_id == [5, 6]


@pytest.mark.parametrize("asked", [torch.bfloat16, "bfloat16"])
def test_a_model_can_be_loaded_in_another_dtype(asked, checkpoint):
    loaded = orthrus_core.load_model(checkpoint, dtype=asked)
    assert_same_bits(loaded, small_orthrus(dtype=torch.bfloat16))


# The published layout


@pytest.mark.parametrize("tied", [True, False])
def test_load_model_takes_a_head_under_model_type_qwen3(tied, tmp_path):
    model = small_orthrus(tied=tied)
    save(model, tmp_path)
    edit_config(tmp_path, model_type="qwen3", architectures=["OrthrusLM"])
    loaded = orthrus_core.load_model(tmp_path)
    assert type(loaded) is OrthrusLM
    assert_same_bits(loaded, model)


@pytest.mark.parametrize("model_type", ["orthrus", "qwen3"])
def test_a_config_written_by_transformers_4_with_code_of_its_own_is_understood(model_type, checkpoint):
    edit_config(
        checkpoint,
        "rope_parameters",
        "dtype",
        "layer_types",
        model_type=model_type,
        rope_theta=1000000.0,
        rope_scaling=None,
        torch_dtype="bfloat16",
        auto_map={"AutoModelForCausalLM": "modeling_orthrus.OrthrusLM"},
    )
    model = orthrus_core.load_model(checkpoint)
    assert model.dtype == torch.bfloat16
    assert model.config.rope_parameters["rope_theta"] == 1000000.0
    assert model.model.rotary_emb.inv_freq[1] == pytest.approx(1000000.0 ** (-2 / 16))


def test_load_model_gives_no_warning_on_the_published_layout(checkpoint, capfd):
    edit_config(checkpoint, model_type="qwen3", architectures=["OrthrusLM"])
    capfd.readouterr()
    orthrus_core.load_model(checkpoint)
    assert "[transformers]" not in "".join(capfd.readouterr())


def test_a_tied_checkpoint_may_hold_its_output_head_twice(load, checkpoint):
    embedding = load_file(checkpoint / "model.safetensors")["model.embed_tokens.weight"]
    edit_tensors(checkpoint, **{"lm_head.weight": embedding.clone()})
    loaded = load(checkpoint)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert_same_bits(loaded, small_orthrus())


def test_old_rotary_buffers_in_a_checkpoint_are_no_fault(load, checkpoint):
    edit_tensors(checkpoint, **{"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(8)})
    assert_same_bits(load(checkpoint), small_orthrus())


@pytest.mark.parametrize("model_type", ["orthrus", "qwen3"])
def test_auto_tokenizer_loads_the_tokenizer_beside_the_model(model_type, checkpoint):
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?").save_pretrained(checkpoint)
    edit_config(checkpoint, model_type=model_type)
    assert AutoTokenizer.from_pretrained(checkpoint)("b a c").input_ids == [1, 0, 2]


def test_a_hub_id_is_downloaded_without_subfolders(checkpoint, monkeypatch):
    calls = []

    def download(repo_id, **options):
        calls.append((repo_id, options))
        return str(checkpoint)

    monkeypatch.setattr(loading, "snapshot_download", download)
    assert_same_bits(orthrus_core.load_model("owner/some-Model_1.7B"), small_orthrus())
    patterns = {"allow_patterns": ["*.json", "*.safetensors"], "ignore_patterns": ["*/*"]}
    assert calls == [("owner/some-Model_1.7B", patterns)]
