from pathlib import Path
from types import SimpleNamespace

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orthrus_core.errors import ConfigError
from pipelines.train.config import RowDataConfig
from pipelines.train.source import Source, find_rows
from tests.pipelines.train.conftest import write_rows


def find(path: Path | str, run: Path, **options) -> Source:
    return find_rows(RowDataConfig(path=path, **options), str(run / "_run"))


def names(source: Source) -> list[str]:
    return [shard.file.url.rsplit("/", 1)[-1] for shard in source.plan.shards]


@pytest.fixture
def generated(tmp_path) -> Path:
    """The output of a generate job with filters."""
    path = tmp_path / "generated"
    write_rows(path / "data" / "part-00000-00000.parquet", [[1]], [[4, 2]])
    write_rows(path / "dropped" / "part-00000-00000.parquet", [[1]], [[5, 2]])
    (path / "_run").mkdir()
    (path / "_run" / "manifest.json").write_text('{"identity": {"tokenizer.hash": "t"}, "units": 1}')
    (path / "_run" / "_SUCCESS").write_text("{}")
    return path


def test_of_a_generate_job_s_output_data_is_read_and_nothing_else(generated, tmp_path):
    source = find(generated, tmp_path / "run")
    assert [shard.file.url for shard in source.plan.shards] == [
        str(generated / "data" / "part-00000-00000.parquet")
    ]
    assert source.manifests[0]["identity"] == {"tokenizer.hash": "t"}


def test_an_unfinished_generate_job_is_warned_of(generated, tmp_path, caplog):
    (generated / "_run" / "_SUCCESS").unlink()
    find(generated, tmp_path / "run")
    assert "is not finished" in caplog.text


def test_hidden_and_run_directories_are_not_read(tmp_path):
    for name in ("a.parquet", "_run/b.parquet", ".tmp-c.parquet"):
        write_rows(tmp_path / "in" / name, [[1]], [[4, 2]])
    assert names(find(tmp_path / "in", tmp_path)) == ["a.parquet"]


def test_files_and_globs_can_be_joined(tmp_path):
    for name in ("a.parquet", "b.parquet", "x/c.parquet"):
        write_rows(tmp_path / "in" / name, [[1]], [[4, 2]])
    source = find((str(tmp_path / "in" / "x"), str(tmp_path / "in" / "?.parquet")), tmp_path)
    assert names(source) == ["c.parquet", "a.parquet", "b.parquet"]


def test_the_fingerprint_follows_rows_and_columns(tmp_path):
    write_rows(tmp_path / "in" / "a.parquet", [[1]], [[4, 2]], other=pa.array([[9, 9]]))
    first = find(tmp_path / "in", tmp_path).fingerprint
    assert find(tmp_path / "in", tmp_path).fingerprint == first
    assert find(tmp_path / "in", tmp_path, completion_column="other").fingerprint != first
    write_rows(tmp_path / "in" / "b.parquet", [[1]], [[4, 2]])
    assert find(tmp_path / "in", tmp_path).fingerprint != first


def test_a_data_set_of_the_hub_is_exported_below_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    info = SimpleNamespace(sha="c1c1c1c1c1c1")
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: info)
    rows = datasets.Dataset.from_dict({"prompt_token_ids": [[1], [2]], "token_ids": [[4, 2], [5, 2]]})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    source = find("hf://datasets/own/answers", tmp_path / "run")
    assert source.plan.num_rows == 2
    assert source.plan.shards[0].file.url.startswith(str(tmp_path / "run" / "_run" / "input"))


def test_missing_files_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"^data.path: no file at .*absent"):
        find(tmp_path / "absent", tmp_path)


def test_missing_columns_are_named_with_those_there_are(tmp_path):
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"completion": ["a"]}), tmp_path / "in" / "a.parquet")
    with pytest.raises(ConfigError) as caught:
        find(tmp_path / "in", tmp_path)
    assert "no column prompt_token_ids, token_ids (it has completion); set data.prompt_column" in str(
        caught.value
    )
    assert "\n" not in str(caught.value)


def test_text_in_the_place_of_ids_is_refused(tmp_path):
    write_rows(tmp_path / "in" / "a.parquet", [[1]], [[4, 2]], answer=pa.array([["a"]]))
    with pytest.raises(
        ConfigError, match="data.completion_column answer must be a list of token ids, got list<"
    ):
        find(tmp_path / "in", tmp_path, completion_column="answer")


def test_files_without_rows_are_refused(tmp_path):
    write_rows(tmp_path / "in" / "a.parquet", [], [])
    with pytest.raises(ConfigError, match="has no rows: run the generate job first"):
        find(tmp_path / "in", tmp_path)
