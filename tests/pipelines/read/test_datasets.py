"""Data sets by name: local ones, and a hub that is played."""

import os
from pathlib import Path
from types import SimpleNamespace

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orthrus_core.errors import ConfigError
from pipelines.generate.config.job import GenerateConfig, InputConfig
from pipelines.generate.job.job import prepare
from pipelines.read import datasets as exports
from pipelines.read.config import DatasetConfig
from pipelines.storage.files import list_directory
from tests.pipelines.conftest import job_of

ROWS = {"prompt": [f"Add {n} and {n}." for n in range(25)], "n": list(range(25))}


@pytest.fixture(autouse=True)
def _small_and_offline(monkeypatch, tmp_path):
    monkeypatch.setattr(exports, "SHARD_ROWS", 10)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def saved(tmp_path) -> str:
    """A dictionary of splits, as save_to_disk writes it."""
    splits = datasets.DatasetDict(
        train=datasets.Dataset.from_dict(ROWS), test=datasets.Dataset.from_dict(ROWS).select([3, 1])
    )
    splits.save_to_disk(tmp_path / "saved")
    return str(tmp_path / "saved")


@pytest.fixture
def hub(monkeypatch):
    """A hub with one data set, at commit c1; notes what was asked for."""
    asked: list[tuple] = []

    def dataset_info(self, name, revision=None):
        asked.append(("info", name, revision))
        return SimpleNamespace(sha="c1c1c1c1c1c1c1c1")

    def load_dataset(path, name=None, **options):
        asked.append((path, name, options["split"], options["data_files"], options["revision"]))
        return datasets.Dataset.from_dict(ROWS)

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def export(tmp_path, is_begun=False, **options) -> tuple[str, str]:
    return exports.export_dataset(DatasetConfig(**options), str(tmp_path / "run"), is_begun=is_begun)


def rows_of(directory: str) -> list[dict]:
    names = sorted(list_directory(directory))
    return pa.concat_tables([pq.read_table(f"{directory}/{name}") for name in names]).to_pylist()


def test_a_saved_split_is_exported_in_shards_in_order(saved, tmp_path):
    directory, _ = export(tmp_path, name=saved)
    assert len(list_directory(directory)) == 3
    assert [row["n"] for row in rows_of(directory)] == ROWS["n"]


def test_a_selection_of_rows_is_exported_as_it_reads(saved, tmp_path):
    assert [row["n"] for row in rows_of(export(tmp_path, name=saved, split="test")[0])] == [3, 1]


def test_a_directory_of_data_files_is_a_data_set(tmp_path):
    (tmp_path / "files").mkdir()
    pq.write_table(pa.table(ROWS), tmp_path / "files/train.parquet")
    directory, _ = export(tmp_path, name=str(tmp_path / "files"), split="train[:12]")
    assert [row["n"] for row in rows_of(directory)] == list(range(12))


def test_a_split_that_is_not_there_is_named_with_those_that_are(saved, tmp_path):
    with pytest.raises(ConfigError, match="has no split dev; there are train, test"):
        export(tmp_path, name=saved, split="dev")


def test_an_export_that_was_cut_short_goes_on(saved, tmp_path, monkeypatch):
    written: list[str] = []
    real_put = exports.put

    def failing_put(url, data):
        if len(written) == 2:
            raise OSError("killed")
        written.append(url)
        real_put(url, data)

    monkeypatch.setattr(exports, "put", failing_put)
    with pytest.raises(OSError, match="killed"):
        export(tmp_path, name=saved)
    monkeypatch.setattr(exports, "put", lambda url, data: (written.append(url), real_put(url, data)))
    directory, _ = export(tmp_path, name=saved)
    assert len(written) == len(set(written)) == 4  # three shards and the note that they are complete
    assert [row["n"] for row in rows_of(directory)] == ROWS["n"]


def test_a_hub_data_set_is_asked_for_at_one_commit_and_only_once(hub, tmp_path):
    first = export(tmp_path, name="owner/name", config_name="main", revision="v1", files="a/*.json")
    assert first[1] == "c1c1c1c1c1c1c1c1"
    assert hub == [
        ("info", "owner/name", "v1"),
        ("owner/name", "main", "train", "a/*.json", "c1c1c1c1c1c1c1c1"),
    ]
    again = export(tmp_path, True, name="owner/name", config_name="main", revision="v1", files="a/*.json")
    assert again == first
    assert len(hub) == 2


def test_a_hub_that_cannot_be_reached_is_one_line(tmp_path, monkeypatch):
    def unreachable(self, name, revision=None):
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    with pytest.raises(ConfigError) as caught:
        export(tmp_path, name="owner/name")
    assert str(caught.value) == (
        "input.dataset: no directory owner/name, and the hub says ConnectionError: no route"
    )


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("hf://datasets/a/b", ("a/b", None, None)),
        ("hf://datasets/a/b@v1", ("a/b", "v1", None)),
        ("hf://datasets/a/b@v1/data/*.parquet", ("a/b", "v1", "data/*.parquet")),
    ],
)
def test_hub_urls_name_data_sets(url, parts):
    config = InputConfig(paths=(url, "/plain"), prompt={"column": "q"})
    [dataset] = exports.named_datasets(config)
    assert (dataset.name, dataset.revision, dataset.files) == parts
    assert exports.plain_paths(config) == ("/plain",)


def test_another_hf_url_is_refused():
    with pytest.raises(ConfigError, match=r"must be hf://datasets/owner/name.*got hf://models/a/b"):
        exports.named_datasets(InputConfig(paths="hf://models/a/b", prompt={"column": "q"}))


@pytest.fixture
def dataset_tree(tree, saved):
    tree["input"] = {"dataset": {"name": saved}, "prompt": {"column": "prompt"}}
    return tree


def test_a_run_over_a_data_set_has_its_rows_and_its_fingerprint(dataset_tree):
    job = job_of(dataset_tree)
    assert job.plan.num_rows == 25
    assert job.layout.carried.names == ["prompt", "n"]
    [stated] = job.identity["input.datasets"]
    assert len(stated["fingerprint"]) == 16


def test_a_data_set_that_changed_is_refused_once_a_run_has_begun(dataset_tree, saved):
    config = GenerateConfig.model_validate(dataset_tree)
    job = prepare(config)
    job.ledger.start(job.plan, job.manifest())
    assert prepare(config).is_new is False
    datasets.Dataset.from_dict({"prompt": ["x"], "n": [1]}).save_to_disk(f"{saved}/train")
    with pytest.raises(ConfigError, match="has changed since the run in output.path"):
        prepare(config)


def test_a_data_set_that_was_copied_with_new_times_is_the_same(dataset_tree, saved):
    config = GenerateConfig.model_validate(dataset_tree)
    job = prepare(config)
    job.ledger.start(job.plan, job.manifest())
    for file in Path(saved).rglob("*"):
        os.utime(file, (5.0, 5.0))
    assert prepare(config).fingerprint == job.fingerprint


def test_an_output_in_the_data_set_is_refused(dataset_tree, saved):
    dataset_tree["output"]["path"] = f"{saved}/out"
    with pytest.raises(ConfigError, match="lies in the input"):
        job_of(dataset_tree)


def test_a_run_without_the_data_set_is_left_alone(dataset_tree, prompts_dir):
    plain = {
        **dataset_tree,
        "input": {**dataset_tree["input"], "dataset": None, "paths": [str(prompts_dir)], "id_column": "id"},
    }
    job = job_of(plain)
    job.ledger.start(job.plan, job.manifest())
    with pytest.raises(ConfigError, match="is no part of the run in output.path"):
        job_of(dataset_tree)
    assert "input" not in list_directory(job.ledger.run_url)
