import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import orthrus_core
from orthrus_core.errors import CheckpointError
from orthrus_core.models import loading
from orthrus_core.models.checkpoint import load_config
from orthrus_core.models.model import OrthrusLM
from tests.small_models import small_backbone, small_orthrus

LOADERS: dict[str, Callable] = {
    "load_model": orthrus_core.load_model,
    "Auto": AutoModelForCausalLM.from_pretrained,
    "OrthrusLM": OrthrusLM.from_pretrained,
}
V_PROJ_DIFF = "model.layers.1.self_attn.v_proj_diff.weight"


@pytest.fixture(params=LOADERS)
def load(request) -> Callable:
    return LOADERS[request.param]


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    return save(small_orthrus(), tmp_path / "checkpoint")


def save(model, directory: Path, **options) -> Path:
    model.save_pretrained(directory, **options)
    return directory


def edit_config(directory: Path, *remove: str, **fields) -> None:
    path = directory / "config.json"
    config = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({name: value for name, value in config.items() if name not in remove}))


def edit_tensors(directory: Path, *remove: str, **tensors: Tensor) -> None:
    path = directory / "model.safetensors"
    state = load_file(path) | tensors
    save_file({name: tensor for name, tensor in state.items() if name not in remove}, path, {"format": "pt"})


def assert_same_bits(model, expected) -> None:
    state = model.state_dict()
    assert state.keys() == expected.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        assert state[name].dtype == tensor.dtype, name
        assert torch.equal(state[name], tensor), name


def error_of(load: Callable, path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(path)
    return str(caught.value)


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


# Errors


@pytest.mark.parametrize("name", [V_PROJ_DIFF, "model.norm.weight"])
def test_a_missing_tensor_is_named(name, load, checkpoint):
    edit_tensors(checkpoint, name)
    error = error_of(load, checkpoint)
    assert error.startswith(f"{checkpoint}: tensors do not fit an Orthrus model: 1 missing ({name}); ")
    assert "download or save the checkpoint again" in error


def test_a_checkpoint_without_any_diffusion_tensor_says_how_to_get_a_head(load, checkpoint):
    names = load_file(checkpoint / "model.safetensors").keys()
    edit_tensors(checkpoint, *(name for name in names if "_diff" in name))
    error = error_of(load, checkpoint)
    assert f"{checkpoint}: " in error
    assert "12 missing (model.layers.0.self_attn.k_norm_diff.weight, " in error
    assert "orthrus_core.add_diffusion_head" in error


def test_a_diffusion_tensor_of_a_layer_that_is_not_there_is_named(load, checkpoint):
    name = "model.layers.2.self_attn.q_proj_diff.weight"
    edit_tensors(checkpoint, **{name: torch.zeros(64, 48)})
    assert f"{checkpoint}: tensors do not fit an Orthrus model: 1 surplus ({name})" in error_of(
        load, checkpoint
    )


def test_a_tensor_of_the_wrong_shape_is_named_with_both_shapes(load, checkpoint):
    edit_tensors(checkpoint, **{V_PROJ_DIFF: torch.zeros(48, 32)})
    error = error_of(load, checkpoint)
    assert f"{checkpoint}: " in error
    assert f"1 wrongly shaped ({V_PROJ_DIFF} [48, 32] instead of [32, 48])" in error


def test_an_untied_config_over_tied_weights_is_an_error(load, checkpoint):
    edit_config(checkpoint, tie_word_embeddings=False)
    assert "1 missing (lm_head.weight)" in error_of(load, checkpoint)


@pytest.mark.parametrize(
    ("removed", "fields", "message"),
    [
        (["mask_token_id"], {}, "config.mask_token_id is missing: name the id of the mask token"),
        ([], {"mask_token_id": None}, "config.mask_token_id is missing"),
        (
            [],
            {"mask_token_id": 97},
            "config.mask_token_id must be inside the vocabulary of 97 entries, got 97",
        ),
        (["block_size"], {}, "config.block_size is missing: name the head's block size"),
        ([], {"block_size": 1}, "config.block_size must be >= 2, got 1"),
        ([], {"block_size": "8"}, "config.block_size must be an integer, got '8'"),
    ],
)
def test_a_config_with_an_unusable_head_is_refused_by_name(removed, fields, message, load, checkpoint):
    edit_config(checkpoint, *removed, **fields)
    assert error_of(load, checkpoint).startswith(f"{checkpoint}: {message}")


def test_a_plain_qwen3_checkpoint_says_how_to_get_a_head(tmp_path):
    save(small_backbone(), tmp_path)
    error = error_of(orthrus_core.load_model, tmp_path)
    assert error.startswith(f"{tmp_path}: config.json has neither block_size nor mask_token_id")
    assert error.endswith("add one with orthrus_core.add_diffusion_head")


def test_another_model_type_is_refused(checkpoint):
    edit_config(checkpoint, model_type="llama")
    error = error_of(orthrus_core.load_model, checkpoint)
    assert error == f"{checkpoint}: config.model_type must be one of orthrus, qwen3, got llama"


def test_a_field_of_the_wrong_type_is_named(checkpoint):
    edit_config(checkpoint, hidden_size="many")
    error = error_of(orthrus_core.load_model, checkpoint)
    assert error.startswith(f"{checkpoint}: ")
    assert "'hidden_size'" in error


@pytest.mark.parametrize("text", ["{broken", "", "[]", "{}", "null"])
def test_a_config_that_is_no_json_object_is_an_error(text, checkpoint):
    (checkpoint / "config.json").write_text(text)
    assert error_of(orthrus_core.load_model, checkpoint).startswith(f"{checkpoint}: ")


def test_a_directory_without_config_is_an_error(tmp_path):
    assert error_of(orthrus_core.load_model, tmp_path).startswith(f"{tmp_path}: has no config.json")


def test_a_file_in_place_of_a_directory_is_an_error(checkpoint):
    path = checkpoint / "config.json"
    assert error_of(orthrus_core.load_model, path).startswith(f"{path}: is a file")


@pytest.mark.parametrize("path", ["./nowhere", "nowhere", "../nowhere/here", "/nowhere/at/all", "a/b/c"])
def test_a_missing_directory_is_an_error_without_asking_the_hub(path, monkeypatch):
    monkeypatch.setattr(loading, "snapshot_download", pytest.fail)
    assert error_of(orthrus_core.load_model, path).startswith(f"{path}: no such directory")


def test_a_hub_id_that_cannot_be_had_is_an_error(monkeypatch):
    def download(*_, **__):
        raise LocalEntryNotFoundError("cannot reach\nthe hub")

    monkeypatch.setattr(loading, "snapshot_download", download)
    error = error_of(orthrus_core.load_model, "owner/name")
    assert error == "owner/name: no such directory, and not to be had from the hub: cannot reach the hub"


def test_a_checkpoint_without_weights_is_an_error(load, checkpoint):
    (checkpoint / "model.safetensors").unlink()
    assert error_of(load, checkpoint).startswith(f"{checkpoint}: has no weights")


@pytest.mark.parametrize("length", [0, 4, 5000])
def test_a_weights_file_that_was_cut_short_is_named(length, load, checkpoint):
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    error = error_of(load, checkpoint)
    assert error.startswith(f"{path}: is no readable safetensors file")
    assert error.endswith("download or save the checkpoint again")


def test_a_missing_shard_is_named(load, tmp_path):
    save(small_orthrus(), tmp_path, max_shard_size="20KB")
    shard = min(tmp_path.glob("model-*.safetensors"))
    shard.unlink()
    assert error_of(load, tmp_path).startswith(f"{shard}: is missing")


@pytest.mark.parametrize("text", ["{broken", "{}", "[]", '{"weight_map": 3}'])
def test_an_unreadable_shard_index_is_named(text, load, checkpoint):
    (checkpoint / "model.safetensors").unlink()
    index = checkpoint / "model.safetensors.index.json"
    index.write_text(text)
    assert error_of(load, checkpoint).startswith(f"{index}: is no safetensors index")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: edit_tensors(path, V_PROJ_DIFF),
        lambda path: edit_tensors(path, **{"model.layers.2.self_attn.q_proj_diff.weight": torch.zeros(3)}),
        lambda path: edit_tensors(path, **{V_PROJ_DIFF: torch.zeros(3, 3)}),
        lambda path: edit_config(path, "mask_token_id"),
        lambda path: (path / "model.safetensors").write_bytes(b"no tensors"),
    ],
)
def test_nothing_is_printed_beside_the_error(spoil, load, checkpoint, capfd):
    spoil(checkpoint)
    capfd.readouterr()
    error_of(load, checkpoint)
    assert capfd.readouterr() == ("", "")


def test_an_error_is_one_line(checkpoint):
    edit_config(checkpoint, hidden_size="many")
    assert "\n" not in error_of(orthrus_core.load_model, checkpoint)


def test_load_config_reads_the_head_without_weights(checkpoint):
    (checkpoint / "model.safetensors").unlink()
    config = load_config(checkpoint)
    assert (config.block_size, config.mask_token_id, config.vocab_size) == (8, 96, 97)
