"""LoRA adapters of a job."""

from pathlib import Path

import pytest
import torch

from orthrus_core.errors import ConfigError
from orthrus_core.models.loading import load_model
from pipelines.checkpoint.adapter import locate_adapter
from pipelines.checkpoint.directory import fetch
from pipelines.generate.config.job import GenerateConfig
from pipelines.generate.decode.actor import load_engine
from pipelines.generate.decode.spec import new_actor_spec
from pipelines.generate.job.job import prepare
from pipelines.storage import files as storage
from pipelines.storage.config import StorageConfig, use_storage
from tests.orthrus_core.models.adapters import save_adapter
from tests.pipelines.conftest import job_of
from tests.small_models import small_backbone


@pytest.fixture
def adapter(tmp_path):
    return save_adapter(tmp_path / "lora", small_backbone(vocab_size=1024))


def with_lora(tree, path) -> GenerateConfig:
    return GenerateConfig.model_validate({**tree, "model": tree["model"] | {"lora": str(path)}})


def test_a_run_belongs_to_its_adapter(tree, adapter, tmp_path):
    other = save_adapter(tmp_path / "other", small_backbone(vocab_size=1024), scale=0.2)
    plain, first, second = (
        prepare(config).fingerprint
        for config in (
            GenerateConfig.model_validate(tree),
            with_lora(tree, adapter),
            with_lora(tree, other),
        )
    )
    assert len({plain, first, second}) == 3
    assert prepare(with_lora(tree, adapter.rename(tmp_path / "moved"))).fingerprint == first


def test_a_begun_run_is_refused_without_it(tree, adapter):
    job = prepare(with_lora(tree, adapter))
    job.ledger.start(job.plan, job.manifest())
    with pytest.raises(ConfigError, match=r"belongs to another run: model\.lora was \"[0-9a-f]+\", is null"):
        job_of(tree)


@pytest.mark.ray
def test_the_engine_runs_the_merged_model(tree, adapter, model_dir, monkeypatch, local_ray):
    loaded = []
    monkeypatch.setattr("orthrus_core.Engine", lambda model, *_, **__: loaded.append(model), raising=False)
    load_engine(new_actor_spec(prepare(with_lora(tree, adapter)), is_local=True))
    expected = load_model(model_dir, dtype=torch.float32, lora=adapter).state_dict()
    assert all(torch.equal(loaded[0].state_dict()[name], tensor) for name, tensor in expected.items())


def test_an_adapter_of_another_model_is_refused_before_anything_starts(tree, tmp_path):
    other = save_adapter(tmp_path / "lora", small_backbone(num_layers=3))
    with pytest.raises(ConfigError, match=r"updates model\.layers\.2\.\S+, and the model has no linear"):
        prepare(with_lora(tree, other))


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("no/such/directory", "model.lora: no directory no/such/directory"),
        ("", "model.lora: .* has no adapter_config.json, adapter_model.safetensors, so it is no adapter"),
    ],
)
def test_what_is_no_adapter_is_refused(tree, tmp_path, path, fault):
    with pytest.raises(ConfigError, match=fault):
        prepare(with_lora(tree, path or tmp_path))


def test_one_in_a_bucket_is_fetched(s3, adapter):
    use_storage(StorageConfig(**s3.storage()))
    bucket = s3.new_bucket()
    for file in adapter.iterdir():
        storage.put(f"{bucket}/lora/{file.name}", file.read_bytes())
    found = locate_adapter(f"{bucket}/lora/")
    assert found.model_hash == locate_adapter(str(adapter)).model_hash
    for file in adapter.iterdir():
        assert Path(fetch(found), file.name).read_bytes() == file.read_bytes()
