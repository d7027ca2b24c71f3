"""A whole run in object storage: model, prompts and output; and where its credentials went."""

import importlib.util
import json
import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orthrus_core.errors import ConfigError, OrthrusError
from pipelines.checkpoint.cache import list_model, listing_key, local_copy
from pipelines.checkpoint.directory import fetch, load_tokenizer, locate
from pipelines.config.model import ModelConfig
from pipelines.storage import files as storage
from pipelines.storage.config import StorageConfig, use_storage
from tests.fakes import fake_engine
from tests.pipelines.conftest import ROOT, generate_tree, job_of, run_tree
from tests.pipelines.read.test_bad_shards import damage_pages
from tests.pipelines.read.test_types import COLUMNS
from tests.pipelines.s3 import KEY, SECRET

TOKEN = "a-session-token-to-hide"
OPTION = "an-option-to-hide"


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ORTHRUS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/models"


@pytest.fixture
def bucket(s3, model_dir, cache) -> str:
    """A bucket with a model in it, and this process set up to reach it."""
    use_storage(StorageConfig(**s3.storage()))
    url = s3.new_bucket()
    for file in model_dir.iterdir():
        storage.put(f"{url}/model/{file.name}", file.read_bytes())
    return url


@pytest.fixture
def tree(s3, bucket, tmp_path):
    """A run from and to the bucket: one damaged unit, all kinds of columns, secrets to look for."""
    columns = {"id": ["a", "b", "c"], "prompt": ["Add 1 and 2.", None, "Add 3 and 4."], **COLUMNS}
    for name in ("a", "b"):
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet", row_group_size=2)
    damage_pages(tmp_path / "b.parquet", 1)
    (tmp_path / "c.parquet").write_bytes(b"PAR1 and then nothing")
    for name in ("a", "b", "c"):
        storage.put(f"{bucket}/in/{name}.parquet", (tmp_path / f"{name}.parquet").read_bytes())
    tree = generate_tree(f"{bucket}/model", f"{bucket}/in", f"{bucket}/out", unit_rows=2)
    tree["run"] |= {"actors": 2, "cpus_per_actor": 0.5}  # the session's Ray has two CPUs
    tree["storage"] = s3.storage(token=TOKEN, options={"gs": {"token": OPTION}})
    tree["input"]["on_bad_shard"] = "skip"
    return tree


def _fetching_engine(spec):
    """A stand-in that fetches the model as the engine would; slow, so that both actors are at work."""
    import time

    from pipelines.checkpoint.directory import fetch
    from tests.fakes import FakeEngine

    class Slow(FakeEngine):
        def step(self):
            time.sleep(0.5)
            return super().step()

    assert fetch(spec.checkpoint)
    return Slow(max_sequences=1)


@pytest.mark.ray
def test_a_run_in_a_bucket_is_whole_and_shows_no_credential(
    tree, bucket, s3, by_value, caplog, capfd, tmp_path
):
    tree["audit"] = {"enabled": False}  # the stand-in is slow
    with caplog.at_level(logging.DEBUG, logger="pipelines"):
        job, report = run_tree(tree, _fetching_engine)
    assert _downloads(s3, bucket) == 1  # for two actors
    store = s3.client()
    [log] = store.find(f"{bucket}/out/_run/logs")
    assert "rows=6/6" in store.cat_file(log).decode()
    assert [name for name in sorted(store.find(f"{bucket}/out")) if name != log] == [
        f"{bucket.removeprefix('s3://')}/out/{name}"
        for name in (
            *("README.md", "_run/_SUCCESS", "_run/manifest.json", "_run/plan.json"),
            *("_run/report.html", "_run/report.json"),
            *(f"data/part-{shard:05}-{unit:05}.parquet" for shard in (0, 1) for unit in (0, 1)),
        )
    ]
    assert (report["rows"], report["errors"]) == (6, 3)  # two null prompts and a damaged unit of one row
    assert [entry["url"] for entry in report["inputs"]["skipped"]] == [f"{bucket}/in/c.parquet"]
    rows = [_read(store, f"{bucket}/out/data/part-00000-{unit:05}.parquet") for unit in (0, 1)]
    for name, values in COLUMNS.items():
        assert [value for table in rows for value in table.column(name).to_pylist()] == values.to_pylist()
    shown = [store.cat_file(name) for name in store.find(f"{bucket}/out")]
    shown += [repr(job).encode(), caplog.text.encode()]
    shown += ["".join(capfd.readouterr()).encode()]
    shown += [
        file.read_bytes() for file in tmp_path.rglob("*") if file.is_file() and "/cache/" not in str(file)
    ]
    for secret in (SECRET, KEY, TOKEN, OPTION):
        assert not any(secret.encode() in text for text in shown)
    job, again = run_tree(tree, fake_engine)
    assert (job.units, again) == ((), report)
    capfd.readouterr()
    assert inspect_main([f"{bucket}/out", "--json", "--errors", "9"]) == 0
    state = json.loads(capfd.readouterr().out)
    assert (state["status"], state["units_done"], state["rows_done"]) == ("done", 4, 6)
    assert sorted(row["id"] for row in state["error_rows"]) == ["1:2", "b", "b"]
    storage.remove(f"{bucket}/out/_run/_SUCCESS")
    storage.remove(f"{bucket}/out/_run/report.json")
    storage.remove(f"{bucket}/out/data/part-00001-00000.parquet")
    assert inspect_main([f"{bucket}/out"]) == 0
    assert "goes on with it" in capfd.readouterr().out


def inspect_main(arguments: list[str]) -> int:
    """jobs/inspect_run.py in this process, which knows how to reach the server."""
    spec = importlib.util.spec_from_file_location("inspect_run", ROOT / "jobs/inspect_run.py")
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module.main(arguments)


@pytest.mark.slow
@pytest.mark.ray
def test_damage_that_shows_while_reading_ends_the_run_after_all_other_units(tree, bucket, local_ray):
    storage.remove(f"{bucket}/in/c.parquet")
    tree["input"]["on_bad_shard"] = "fail"
    with pytest.raises(OrthrusError) as caught:
        run_tree(tree, fake_engine)
    text = str(caught.value)
    assert text.startswith("1 unit(s) not done, all others are: input is damaged: ")
    assert f"{bucket}/in/b.parquet, unit 1 (rows 2 to 2): unreadable: " in text
    assert "\n" not in text
    assert len(storage.list_directory(f"{bucket}/out/data")) == 3
    tree["input"]["on_bad_shard"] = "skip"
    assert run_tree(tree, fake_engine)[1]["rows"] == 6


def test_refusals_come_before_anything_is_written(tree, bucket, s3):
    for change, fault in (
        ({"output": {"path": "s3://no-such-bucket/out"}}, "output.path: no bucket no-such-bucket"),
        ({"storage": s3.storage(key=None, secret=None, profile="nobody")}, "ProfileNotFound"),
    ):
        with pytest.raises(ConfigError, match=fault):
            job_of({**tree, **change})
    use_storage(StorageConfig(**s3.storage()))
    assert storage.list_directory(f"{bucket}/out/_run") == {}


def test_the_driver_fetches_what_it_needs_and_no_weights(bucket, cache, model_dir):
    found = locate(ModelConfig(path=f"{bucket}/model/"))
    names = {path.name for path in Path(found.path).iterdir()}
    assert "config.json" in names
    assert "model.safetensors" not in names
    assert load_tokenizer(found.source).vocab_size == load_tokenizer(str(model_dir)).vocab_size
    assert (Path(fetch(found)) / "model.safetensors").read_bytes() == (
        model_dir / "model.safetensors"
    ).read_bytes()


def test_another_weight_makes_another_model(bucket, model_dir):
    before = locate(ModelConfig(path=f"{bucket}/model"))
    storage.put(
        f"{bucket}/model/model.safetensors", bytes(len((model_dir / "model.safetensors").read_bytes()))
    )
    after = locate(ModelConfig(path=f"{bucket}/model"))
    assert before.model_hash != after.model_hash
    assert before.tokenizer_hash == after.tokenizer_hash
    with pytest.raises(ConfigError, match="has changed since this run was started"):
        fetch(before)
    assert (Path(fetch(after)) / "model.safetensors").read_bytes()[:8] == bytes(8)


def test_a_directory_in_a_bucket_without_config_is_no_model(bucket):
    with pytest.raises(ConfigError, match="no files at"):
        locate(ModelConfig(path=f"{bucket}/nothing"))
    storage.put(f"{bucket}/other/file", b"x")
    with pytest.raises(ConfigError, match="has no config.json"):
        locate(ModelConfig(path=f"{bucket}/other"))


def test_of_many_at_once_only_one_downloads(bucket, s3):
    key = listing_key(list_model(f"{bucket}/model"))
    jobs = [f"{bucket}/model"] * 4
    assert len(set(storage.map_files(lambda url: local_copy(url, key, weights=True), jobs))) == 1
    assert _downloads(s3, bucket) == 1


def _downloads(s3, bucket: str) -> int:
    name = f"/{bucket.removeprefix('s3://')}/model/model.safetensors"
    return sum(request == f"GET {name}" for request in s3.requests())


def test_what_a_killed_download_left_is_cleared(bucket, cache):
    key = listing_key(list_model(f"{bucket}/model"))
    left = cache / f".{key}.dead.tmp"
    left.mkdir(parents=True)
    path = local_copy(f"{bucket}/model", key, weights=True)
    assert not left.exists()
    assert json.loads((Path(path) / "config.json").read_text())


def _read(store, url: str) -> pa.Table:
    return pq.read_table(pa.BufferReader(store.cat_file(url)))
