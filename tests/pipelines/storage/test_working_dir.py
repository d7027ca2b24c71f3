"""Paths in the working directory of a submitted job, which is a copy with another path on every node."""

import os

import pytest

from orthrus_core.errors import ConfigError
from pipelines.checkpoint.directory import locate
from pipelines.config.model import ModelConfig
from pipelines.read.shards import list_shards
from pipelines.storage.working_dir import check_outlives_job, portable
from tests.pipelines.conftest import write_prompts


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """The process stands in a copy, as Ray lays them out."""
    path = tmp_path / "session_1/runtime_resources/working_dir_files/_ray_pkg_0123"
    path.mkdir(parents=True)
    monkeypatch.chdir(path)
    return path


def test_a_path_in_the_copy_is_known_from_its_root(copy):
    assert portable(str(copy / "models/demo")) == "models/demo"


def test_a_path_elsewhere_stays_as_it_is(copy):
    assert portable("/models/demo") == "/models/demo"


def test_outside_of_a_submitted_job_paths_stay_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert portable(str(tmp_path / "models")) == str(tmp_path / "models")


def test_a_model_in_the_copy_is_found_by_nodes_with_another_path(copy, model_dir):
    os.symlink(model_dir, copy / "linked")
    (copy / "model").mkdir()
    for file in model_dir.iterdir():
        (copy / "model" / file.name).write_bytes(file.read_bytes())
    assert locate(ModelConfig(path="model")).path == "model"
    assert locate(ModelConfig(path="linked")).path == str(model_dir)


def test_inputs_in_two_copies_of_the_same_files_are_the_same(copy, tmp_path, monkeypatch):
    listings = []
    for number in (1, 2):
        root = copy.parent / f"_ray_pkg_{number}"
        write_prompts(root / "prompts/a.parquet", 3, first=0)
        os.utime(root / "prompts/a.parquet", (number, number))
        monkeypatch.chdir(root)
        listings.append(list_shards(["prompts"], "auto"))
    assert listings[0] == listings[1]
    assert listings[0][0][0].url == "prompts/a.parquet"


def test_an_input_with_other_content_of_the_same_size_is_another(copy):
    tags = []
    for text in ('{"prompt": "a"}\n', '{"prompt": "b"}\n'):
        (copy / "a.jsonl").write_text(text)
        tags.append(list_shards(["a.jsonl"], "auto")[0][0].etag)
    assert tags[0] != tags[1]


@pytest.mark.parametrize("path", ["outputs/demo", "./out", "{copy}/out"])
def test_an_output_in_the_copy_is_refused_with_the_repair(copy, path):
    with pytest.raises(ConfigError) as caught:
        check_outlives_job(path.format(copy=copy), "output.path")
    assert "lies in Ray's copy of the working directory" in str(caught.value)
    assert "--set output.path=s3://BUCKET/NAME" in str(caught.value)


@pytest.mark.parametrize("path", ["/results/demo", "s3://results/demo"])
def test_an_output_elsewhere_is_accepted(copy, path):
    check_outlives_job(path, "output.path")


def test_beside_a_copy_is_not_in_it(copy):
    check_outlives_job(str(copy.parents[2] / "out"), "output.path")
