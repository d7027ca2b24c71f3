"""Finding and hashing a model directory."""

import json
import shutil

import pytest

from orthrus_core.errors import ConfigError
from pipelines.checkpoint import directory as checkpoint
from pipelines.checkpoint.directory import load_tokenizer, locate
from pipelines.config.model import ModelConfig


@pytest.fixture
def copy(model_dir, tmp_path):
    return shutil.copytree(model_dir, tmp_path / "copy")


def hashes(path) -> tuple[str, str]:
    found = locate(ModelConfig(path=str(path)))
    return found.model_hash, found.tokenizer_hash


def test_a_copy_has_the_same_hashes(model_dir, copy):
    assert hashes(copy) == hashes(model_dir)


def test_another_weight_changes_the_model_hash_only(model_dir, copy):
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert hashes(copy)[0] != hashes(model_dir)[0]
    assert hashes(copy)[1] == hashes(model_dir)[1]


def test_another_chat_template_changes_the_tokenizer_hash_only(model_dir, copy):
    (copy / "chat_template.jinja").write_text("{{ messages }}")
    assert hashes(copy)[0] == hashes(model_dir)[0]
    assert hashes(copy)[1] != hashes(model_dir)[1]


def test_large_files_are_hashed_in_samples_with_their_size(model_dir, copy, monkeypatch):
    monkeypatch.setattr(checkpoint, "WHOLE_FILE_BYTES", 1000)
    monkeypatch.setattr(checkpoint, "SAMPLE_BYTES", 100)
    before = hashes(copy)[0]
    weights = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(weights + b"\0")
    assert hashes(copy)[0] != before
    (copy / "model.safetensors").write_bytes(bytes(100) + weights[100:])
    assert hashes(copy)[0] != before


def test_a_missing_directory_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        locate(ModelConfig(path="models/of/mine"))
    assert str(caught.value) == f"model.path: no directory models/of/mine (looked in {tmp_path})"


def test_a_directory_without_config_is_no_model(tmp_path):
    with pytest.raises(ConfigError, match="has no config.json"):
        locate(ModelConfig(path=str(tmp_path)))


def test_a_hub_id_that_cannot_be_reached_names_both_places(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))

    def unreachable(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(
        ConfigError, match="no directory owner/name .*and the hub says ConnectionError: no route"
    ):
        locate(ModelConfig(path="owner/name"))


def test_a_hub_model_is_known_by_its_commit(model_dir, monkeypatch, tmp_path):
    snapshot = shutil.copytree(model_dir, tmp_path / "0123abc")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *args, **kwargs: str(snapshot))
    found = locate(ModelConfig(path="owner/name"))
    assert (found.hub_id, found.revision, found.model_hash) == ("owner/name", "0123abc", "0123abc")


def test_a_broken_tokenizer_is_a_config_error(copy):
    (copy / "tokenizer.json").write_text(json.dumps({"model": {}}))
    with pytest.raises(ConfigError, match="no usable tokenizer"):
        load_tokenizer(str(copy))
