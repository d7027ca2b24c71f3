"""A small model with the demo's tokenizer, prompts in Parquet, and one local Ray for all ray tests."""

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

import fsspec.config
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tests.fakes
from tests.pipelines.s3 import s3_server
from tests.small_models import small_orthrus

ROOT = Path(__file__).parents[2]
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory) -> Path:
    """A random model of 100,000 parameters with the demo's tokenizer."""
    path = tmp_path_factory.mktemp("model")
    small_orthrus(vocab_size=1024, mask_token_id=3, eos_token_id=2, sameness=0.2).save_pretrained(path)
    for name in TOKENIZER_FILES:
        shutil.copy(ROOT / "pipelines/demo/model" / name, path)
    return path


@pytest.fixture
def prompts_dir(tmp_path) -> Path:
    """Three shards of 7, 0 and 10 prompts."""
    path = tmp_path / "prompts"
    write_prompts(path / "a.parquet", 7, first=0)
    write_prompts(path / "b.parquet", 0, first=7)
    write_prompts(path / "c.parquet", 10, first=7)
    return path


@pytest.fixture
def tree(model_dir, prompts_dir, tmp_path) -> dict[str, Any]:
    """A generate config as a tree of dicts."""
    return generate_tree(model_dir, prompts_dir, tmp_path / "out", unit_rows=4)


@pytest.fixture(scope="session")
def local_ray():
    """A local Ray that all tests of a session share; workers get the fakes by value."""
    import ray

    from pipelines.cluster.config import RunConfig
    from pipelines.cluster.session import RaySession

    os.environ.setdefault("RAY_metrics_report_interval_ms", "1000")  # of 10,000, for the tests of metrics
    ray.cloudpickle.register_pickle_by_value(tests.fakes)
    with contextlib.closing(RaySession(RunConfig(ray_address="local"))) as session, session:
        yield


@pytest.fixture
def by_value(local_ray, request):
    """Ray's workers get what the test's module defines by value: they cannot import it."""
    import ray

    ray.cloudpickle.register_pickle_by_value(request.module)
    yield
    ray.cloudpickle.unregister_pickle_by_value(request.module)


@pytest.fixture(scope="session")
def many_prompts(tmp_path_factory) -> Path:
    """Shards of 100, 0 and 120 prompts, and one of a null, a too long and a good one."""
    path = tmp_path_factory.mktemp("prompts")
    write_prompts(path / "a.parquet", 100, first=0)
    write_prompts(path / "b.parquet", 0, first=100)
    write_prompts(path / "c.parquet", 120, first=100)
    mixed = {"id": ["null", "long", "fine"], "prompt": [None, "word " * 400, "Add 1 and 1."]}
    pq.write_table(pa.table(mixed), path / "d.parquet")
    return path


@pytest.fixture(scope="session")
def finished(local_ray, model_dir, many_prompts, tmp_path_factory):
    """An undisturbed run of the small model over all of `many_prompts`: (job, report)."""
    return run_tree(
        generate_tree(model_dir, many_prompts, tmp_path_factory.mktemp("run") / "out", unit_rows=16)
    )


def job_of(tree: dict[str, Any], **options):
    """The job of a generate config, checked and planned."""
    from pipelines.generate.config.job import GenerateConfig
    from pipelines.generate.job.job import prepare

    return prepare(GenerateConfig.model_validate(tree), **options)


def run_tree(tree: dict[str, Any], *engine_factory):
    """Prepare and run a config; returns (job, report)."""
    from pipelines.generate.build import run_job
    from pipelines.generate.watch.progress import Progress

    job = job_of(tree)
    return job, run_job(job, Progress(total_rows=job.plan.num_rows, done_rows=0, every_s=60), *engine_factory)


def generate_tree(model: Path, prompts: Path, output: Path, *, unit_rows: int) -> dict[str, Any]:
    """A generate config for a small model as a tree of dicts."""
    return {
        "input": {"paths": [str(prompts)], "prompt": {"column": "prompt"}, "id_column": "id"},
        "model": {"path": str(model), "dtype": "float32", "device": "cpu"},
        "decode": {"max_context": 256, "max_sequences": 4},
        "sampling": {"max_new_tokens": 24},
        "output": {"path": str(output), "token_ids": True},
        "run": {"unit_rows": unit_rows, "ray_address": "local"},
    }


def write_prompts(path: Path, num_rows: int, *, first: int) -> None:
    """Write numbered prompts."""
    numbers = range(first, first + num_rows)
    columns = {
        "id": pa.array([f"row-{n}" for n in numbers], pa.string()),
        "prompt": pa.array([f"Add {n} and {2 * n}." for n in numbers], pa.string()),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


@pytest.fixture(scope="session")
def s3(tmp_path_factory):
    """An S3 server on this machine."""
    pytest.importorskip("s3fs")
    with s3_server(str(tmp_path_factory.mktemp("s3") / "requests.log")) as server:
        yield server


@pytest.fixture(autouse=True, scope="session")
def _own_model_cache(tmp_path_factory):
    """Copies of models in object storage go to a temporary directory, in Ray's workers too."""
    os.environ["ORTHRUS_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    del os.environ["ORTHRUS_CACHE"]


@pytest.fixture(autouse=True)
def _own_storage():
    """Each test leaves the process's storage options as it found them."""
    kept = {name: dict(options) for name, options in fsspec.config.conf.items()}
    yield
    fsspec.config.conf.clear()
    fsspec.config.conf.update(kept)
