"""What docs/security.md promises of code that comes with data: it is not run, and names lead nowhere."""

import ast
import functools
import os
import re
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

import orthrus_core
from orthrus_core.errors import CheckpointError, ConfigError
from pipelines.checkpoint.cache import local_copy
from pipelines.checkpoint.directory import Checkpoint, locate
from pipelines.config.model import ModelConfig
from pipelines.read.shard import Shard
from pipelines.read.shards import Inspection
from pipelines.read.units import plan_units
from pipelines.storage.file_info import FileInfo
from pipelines.train.backbone import load_backbone
from tests.small_models import small_backbone

ROOT = Path(__file__).parents[1]
PACKAGES = ("orthrus_core", "pipelines", "jobs")


@functools.cache
def all_calls():
    """File, line, function and keyword values of every call of a method in the shipped code."""
    return [
        (
            f"{path.relative_to(ROOT)}:{node.lineno}",
            ast.unparse(node.func),
            {key.arg: ast.unparse(key.value) for key in node.keywords},
        )
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]


def calls(name):
    return [call for call in all_calls() if call[1].endswith(f".{name}")]


def test_code_of_a_checkpoint_is_never_trusted():
    said = [values["trust_remote_code"] for _, _, values in all_calls() if "trust_remote_code" in values]
    assert set(said) == {"False"}


def test_auto_classes_say_so_since_they_would_ask_a_person_at_a_terminal():
    found = [call for call in calls("from_pretrained") if call[1].startswith("Auto")]
    assert found
    assert [place for place, _, values in found if values.get("trust_remote_code") != "False"] == []


def test_models_are_loaded_from_safetensors_only():
    found = [
        call
        for call in calls("from_pretrained")
        if not re.match(r"AutoTokenizer|AutoConfig|super\(\)|GenerationConfig", call[1])
    ]
    assert found
    others = [place for place, _, values in found if values.get("use_safetensors") != "True"]
    assert [place for place in others if not place.startswith("pipelines/models/import_gguf.py")] == []
    assert len(others) <= 1  # a GGUF holds numbers and texts, no code


def test_pickles_of_torch_are_read_without_running_code():
    loads = [(place, values) for place, name, values in calls("load") if name == "torch.load"]
    assert [place for place, values in loads if values.get("weights_only") != "True"] == []


@pytest.fixture
def pickled(tmp_path):
    """The demo's model with pickled weights, which leave a mark when they are unpickled."""
    source, directory = ROOT / "pipelines/demo/model", tmp_path / "model"
    directory.mkdir()
    for file in source.iterdir():
        if file.suffix != ".safetensors":
            (directory / file.name).write_bytes(file.read_bytes())
    weights = load_file(source / "model.safetensors")
    torch.save({**weights, "mark": Mark(str(tmp_path / "mark"))}, directory / "pytorch_model.bin")
    return directory


class Mark:
    """Its pickle makes a directory when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("needs_head", [True, False])
def test_a_pickled_model_is_refused_and_not_read(pickled, tmp_path, needs_head):
    with pytest.raises(CheckpointError, match=r"weights as pickles \(pytorch_model.bin\), which run code"):
        orthrus_core.load_model(pickled, needs_head=needs_head)
    assert not (tmp_path / "mark").exists()


def test_a_pickled_model_is_refused_before_anything_starts(pickled):
    with pytest.raises(ConfigError, match="weights as pickles"):
        locate(ModelConfig(path=str(pickled)))


def test_a_pickled_backbone_is_refused_by_training(tmp_path):
    backbone = small_backbone()
    backbone.config.save_pretrained(tmp_path / "model")
    mark = Mark(str(tmp_path / "mark"))
    torch.save({**backbone.state_dict(), "mark": mark}, tmp_path / "model/pytorch_model.bin")
    found = Checkpoint(str(tmp_path / "model"), None, None, model_hash="", tokenizer_hash="")
    with pytest.raises(ConfigError, match="safetensors"):
        load_backbone(found)
    assert not (tmp_path / "mark").exists()


def test_pickles_beside_safetensors_do_no_harm_and_are_not_read(pickled, tmp_path):
    weights = (ROOT / "pipelines/demo/model/model.safetensors").read_bytes()
    (pickled / "model.safetensors").write_bytes(weights)
    orthrus_core.load_model(pickled)
    assert not (tmp_path / "mark").exists()


def test_a_file_of_a_model_in_a_store_cannot_lead_out_of_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ORTHRUS_CACHE", str(tmp_path / "cache"))
    files = [FileInfo("s3://b/m/../../../evil.json", 3, None, "e")]
    monkeypatch.setattr("pipelines.checkpoint.cache.list_model", lambda url: files)
    monkeypatch.setattr("pipelines.checkpoint.cache.listing_key", lambda files: "key")
    monkeypatch.setattr("pipelines.checkpoint.cache.download", lambda url, path: Path(path).write_text("bad"))
    with pytest.raises(ConfigError, match="leads out of it: '../../../evil.json'"):
        local_copy("s3://b/m", "key", weights=True)
    assert list(tmp_path.rglob("evil.json")) == []


def test_names_of_input_files_are_not_part_of_output_names():
    file = FileInfo("s3://b/in/..%2f../..\\evil/$(id).parquet", 9, None, "e")
    shards = (Shard(0, file, "parquet", 5, row_groups=(5,)),)
    plan = plan_units(Inspection(shards, pa.schema([("q", pa.string())])), unit_rows=2)
    assert [unit.file_name for unit in plan.units] == [f"part-00000-0000{i}.parquet" for i in range(3)]
