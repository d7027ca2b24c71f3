from collections.abc import Callable

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file

import orthrus_core
from orthrus_core.errors import CheckpointError
from orthrus_core.models import loading
from orthrus_core.models.checkpoint import load_config
from orthrus_core.models.model import OrthrusLM
from tests.orthrus_core.models.directories import (
    V_PROJ_DIFF,
    assert_same_bits,
    edit_config,
    edit_tensors,
    save,
)
from tests.small_models import small_backbone, small_orthrus


def error_of(load: Callable, path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(path)
    return str(caught.value)


@pytest.mark.parametrize("name", [V_PROJ_DIFF, "model.norm.weight"])
def test_a_missing_tensor_is_named(name, load, checkpoint):
    edit_tensors(checkpoint, name)
    error = error_of(load, checkpoint)
    assert error.startswith(f"{checkpoint}: tensors do not fit the model: 1 missing ({name}); ")
    assert "download or save the checkpoint again" in error


def test_a_checkpoint_without_any_diffusion_tensor_says_how_to_get_a_head(load, checkpoint):
    names = load_file(checkpoint / "model.safetensors").keys()
    edit_tensors(checkpoint, *(name for name in names if "_diff" in name))
    error = error_of(load, checkpoint)
    assert f"{checkpoint}: " in error
    assert "12 missing (model.layers.0.self_attn.k_norm_diff.weight, " in error
    assert "if it is a plain backbone, with decode.lookup_tokens > 0 it drafts by lookup" in error


def test_a_diffusion_tensor_of_a_layer_that_is_not_there_is_named(load, checkpoint):
    name = "model.layers.2.self_attn.q_proj_diff.weight"
    edit_tensors(checkpoint, **{name: torch.zeros(64, 48)})
    assert f"{checkpoint}: tensors do not fit the model: 1 surplus ({name})" in error_of(load, checkpoint)


def test_a_tensor_of_the_wrong_shape_is_named_with_both_shapes(load, checkpoint):
    edit_tensors(checkpoint, **{V_PROJ_DIFF: torch.zeros(48, 32)})
    error = error_of(load, checkpoint)
    assert f"{checkpoint}: " in error
    assert f"1 wrongly shaped ({V_PROJ_DIFF} [48, 32] instead of [32, 48])" in error


@pytest.mark.parametrize(
    ("removed", "added", "message"),
    [
        ([V_PROJ_DIFF], {}, f"1 missing ({V_PROJ_DIFF})"),
        ([], {"model.extra_diff": torch.zeros(3)}, "1 surplus (model.extra_diff)"),
        ([], {V_PROJ_DIFF: torch.zeros(3, 3)}, f"1 wrongly shaped ({V_PROJ_DIFF})"),
    ],
)
def test_tensors_that_cannot_be_checked_beforehand_are_checked_after_loading(
    removed, added, message, checkpoint
):
    edit_tensors(checkpoint, *removed, **added)
    error = error_of(lambda path: OrthrusLM.from_pretrained(path, subfolder="checkpoint"), checkpoint.parent)
    assert error.startswith(f"{checkpoint.parent}: tensors do not fit the model: {message}; ")


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


def test_a_plain_qwen3_checkpoint_says_how_to_run_it_and_how_to_train_a_head(tmp_path):
    save(small_backbone(), tmp_path)
    error = error_of(orthrus_core.load_model, tmp_path)
    assert error.startswith(f"{tmp_path}: config.json has neither block_size nor mask_token_id")
    assert error.endswith(
        "with decode.lookup_tokens > 0 it drafts by lookup, decode.mode: autoregressive never drafts (in "
        "Python load_model(..., needs_head=False)), and docs/training.md says how to train a head for it"
    )


def test_a_plain_qwen3_checkpoint_gets_an_untrained_head_where_none_is_needed(tmp_path):
    backbone = small_backbone(tied=False, dtype=torch.bfloat16)
    save(backbone, tmp_path)
    loaded = orthrus_core.load_model(tmp_path, needs_head=False)
    assert_same_bits(loaded, orthrus_core.add_diffusion_head(backbone, block_size=2, mask_token_id=96))
    assert not loaded.config.has_head


def test_a_checkpoint_with_a_head_keeps_it_where_none_is_needed(checkpoint):
    assert_same_bits(orthrus_core.load_model(checkpoint, needs_head=False), small_orthrus())


def test_half_a_head_in_the_config_is_an_error_even_where_none_is_needed(checkpoint):
    edit_config(checkpoint, "mask_token_id")
    error = error_of(lambda path: orthrus_core.load_model(path, needs_head=False), checkpoint)
    assert error.startswith(f"{checkpoint}: config.mask_token_id is missing")


def test_a_plain_qwen3_checkpoint_with_a_missing_tensor_is_an_error_without_any_print(tmp_path, capfd):
    save(small_backbone(), tmp_path)
    edit_tensors(tmp_path, "model.norm.weight")
    capfd.readouterr()
    error = error_of(lambda path: orthrus_core.load_model(path, needs_head=False), tmp_path)
    assert error.startswith(f"{tmp_path}: tensors do not fit the model: 1 missing (model.norm.weight)")
    assert capfd.readouterr() == ("", "")


def test_another_model_type_is_refused(checkpoint):
    edit_config(checkpoint, model_type="llama")
    error = error_of(orthrus_core.load_model, checkpoint)
    assert error == f"{checkpoint}: config.model_type must be orthrus or the backbone's type qwen3, got llama"


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
