"""A small model directory with the demo's tokenizer, prompts in Parquet, and one local Ray for all ray tests."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tests.fakes
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


def write_prompts(path: Path, num_rows: int, *, first: int = 0, row_group_size: int = 1000) -> None:
    """Write `num_rows` numbered prompts."""
    numbers = range(first, first + num_rows)
    columns = {
        "id": pa.array([f"row-{n}" for n in numbers], pa.string()),
        "prompt": pa.array([f"Add {n} and {2 * n}." for n in numbers], pa.string()),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)


@pytest.fixture
def tree(model_dir, prompts_dir, tmp_path) -> dict:
    """A generate config as a tree of dicts."""
    return {
        "input": {"paths": [str(prompts_dir)], "prompt": {"column": "prompt"}, "id_column": "id"},
        "model": {"path": str(model_dir), "dtype": "float32", "device": "cpu"},
        "decode": {"max_context": 256, "max_sequences": 4},
        "sampling": {"max_new_tokens": 24},
        "output": {"path": str(tmp_path / "out")},
        "run": {"unit_rows": 4, "ray_address": "local"},
    }


@pytest.fixture(scope="session")
def local_ray():
    """A local Ray that all tests of a session share; workers get the fakes by value."""
    import ray

    from pipelines.build import ray_session
    from pipelines.config import RunConfig

    ray.cloudpickle.register_pickle_by_value(tests.fakes)
    with ray_session(RunConfig(ray_address="local")):
        yield
