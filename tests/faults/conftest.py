"""Jobs of 2,400 rows, undisturbed ones to compare with, and the table of what was done to the others."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tests.faults.engines
from tests.fakes import fake_engine
from tests.faults.engines import Stub
from tests.faults.runs import Driver, Texts, texts_of
from tests.faults.table import FaultTable
from tests.pipelines.conftest import (  # noqa: F401  fixtures
    ROOT,
    generate_tree,
    local_ray,
    model_dir,
    run_tree,
    write_prompts,
)

TABLE = pytest.StashKey[FaultTable]()
DEMO_MODEL = ROOT / "pipelines/demo/model"


def pytest_configure(config: pytest.Config) -> None:
    """One table for the session."""
    config.stash[TABLE] = FaultTable(ROOT / "build/faults.md")


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    """Print the table."""
    table = config.stash[TABLE]
    if table.rows:
        terminalreporter.write_line(f"\n{table.to_markdown()}\nalso in {table.path}")


@pytest.fixture(scope="session")
def table(request) -> FaultTable:
    """Where every test notes what it did and what came out."""
    return request.config.stash[TABLE]


@pytest.fixture(scope="session")
def stub_ray(local_ray):  # noqa: F811
    """The shared local Ray, whose workers know the stub engines too."""
    import ray

    ray.cloudpickle.register_pickle_by_value(tests.faults.engines)


@pytest.fixture(scope="session")
def many_prompts(tmp_path_factory) -> Path:
    """2,400 prompts in eight shards."""
    return prompts_in(tmp_path_factory.mktemp("many"), shards=8, rows=300)


@pytest.fixture(scope="session")
def few_prompts(tmp_path_factory) -> Path:
    """320 prompts in four shards."""
    return prompts_in(tmp_path_factory.mktemp("few"), shards=4, rows=80)


@pytest.fixture(scope="session")
def many_texts(stub_ray, many_prompts, tmp_path_factory) -> Texts:
    """What an undisturbed run over `many_prompts` writes."""
    return undisturbed(many_prompts, tmp_path_factory.mktemp("undisturbed-many") / "out")


@pytest.fixture(scope="session")
def few_texts(stub_ray, few_prompts, tmp_path_factory) -> Texts:
    """What an undisturbed run over `few_prompts` writes."""
    return undisturbed(few_prompts, tmp_path_factory.mktemp("undisturbed-few") / "out")


@pytest.fixture
def few_tree(few_prompts, tmp_path) -> dict[str, Any]:
    """A config over `few_prompts`."""
    return stub_tree(few_prompts, tmp_path / "out")


@pytest.fixture
def new_driver(tmp_path) -> Iterator[Callable[..., Driver]]:
    """Make drivers, which are ended after the test."""
    made: list[Driver] = []

    def make(tree: dict[str, Any], engine: Stub | None = None, directory: Path = tmp_path, **options):
        made.append(Driver(tree, directory, engine, **options))
        return made[-1]

    yield make
    for driver in made:
        driver.close()


def prompts_in(path: Path, *, shards: int, rows: int) -> Path:
    """Write numbered prompts in several files."""
    for shard in range(shards):
        write_prompts(path / f"{shard}.parquet", rows, first=shard * rows)
    return path


def stub_tree(prompts: Path | str, output: Path | str) -> dict[str, Any]:
    """A config for a run with a stub engine: the demo's tokenizer, units of 16 rows."""
    tree = generate_tree(DEMO_MODEL, prompts, output, unit_rows=16)
    return {**tree, "decode": {"max_context": 256, "max_sequences": 8}}


def undisturbed(prompts: Path, output: Path) -> Texts:
    """The texts of a run that nothing disturbs."""
    job, _ = run_tree(stub_tree(prompts, output), fake_engine)
    keys, texts = texts_of(job.ledger.url)
    assert len(keys) == len(texts) == job.plan.num_rows
    return texts
