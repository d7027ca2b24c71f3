"""A run over two simulated nodes, each with a cache of its own, a head without work and the model in a bucket."""

from pathlib import Path

import pytest

from pipelines import storage
from pipelines.storage_config import StorageConfig, use_storage
from tests.faults.engines import Stub
from tests.faults.nodes import farthest_from_even, rows_by_actor, rows_by_node, simulated_nodes
from tests.faults.runs import Driver
from tests.pipelines.conftest import generate_tree, write_prompts

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]
NODE = {"num_cpus": 1, "num_gpus": 1}


@pytest.fixture(scope="module")
def run(s3, model_dir, tmp_path_factory):
    """A finished run of 320 rows in 20 units by two engines: (driver, marks of its engines, cluster's facts)."""
    use_storage(StorageConfig(**s3.storage()))
    bucket, path = s3.new_bucket(), tmp_path_factory.mktemp("nodes")
    for file in model_dir.iterdir():
        storage.put(f"{bucket}/model/{file.name}", file.read_bytes())
    write_prompts(path / "prompts/a.parquet", 320, first=0)
    tree = generate_tree(f"{bucket}/model", path / "prompts", path / "out", unit_rows=16)
    tree["storage"] = s3.storage()
    tree["run"] |= {"actors": 2, "cpus_per_actor": 0.25, "gpus_per_actor": 1}
    with simulated_nodes(path / "cluster", {"head": {"num_cpus": 0}, "nodes": [NODE, NODE]}) as nodes:
        tree["run"]["ray_address"] = nodes.known["address"]
        engine = Stub(str(path / "marks"), step_s=0.03, fetches=True)
        driver = Driver(tree, path / "driver", engine, nodes.environment)
        driver.start()
        try:
            assert driver.wait() == 0, driver.log[-3000:]
            caches = {
                name: sorted(path.name for path in Path(node["files"], "cache/models").iterdir())
                for name, node in nodes.known["nodes"].items()
            }
        finally:
            driver.close()
    return driver, path / "marks", caches


def test_two_nodes_share_the_rows_within_20_percent(run):
    driver, marks, _ = run
    done = rows_by_node(driver, marks)
    assert sum(done.values()) == 320
    assert set(done) == {"node0", "node1"}
    assert farthest_from_even(done) <= 0.2, done


def test_every_engine_is_loaded_once(run):
    driver, marks, _ = run
    assert sorted(int(mark.name) for mark in marks.iterdir()) == sorted(rows_by_actor(driver))


def test_weights_are_fetched_once_by_each_node_into_its_own_cache(run, s3):
    _, _, caches = run
    gets = [line for line in s3.requests() if line.startswith("GET") and "/model/model.safetensors" in line]
    assert len(gets) == 2
    assert all(any(len(name) == 16 for name in names) for names in caches.values()), caches
