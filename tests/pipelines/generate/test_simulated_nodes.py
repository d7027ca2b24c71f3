"""A run over two simulated nodes with a model cache each; a head without work, the model in a bucket."""

from pathlib import Path

import pytest

from pipelines.storage import files as storage
from pipelines.storage.config import StorageConfig, use_storage
from tests.faults.engines import Stub
from tests.faults.nodes import farthest_from_even, rows_by_actor, rows_by_node, simulated_nodes
from tests.faults.runs import Driver
from tests.pipelines.conftest import generate_tree, write_prompts

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]
NODE = {"num_cpus": 1, "num_gpus": 1}


@pytest.fixture(scope="module")
def run(s3, model_dir, tmp_path_factory):
    """A run from and to a bucket, 320 rows in 2 shards, 20 units: (driver, marks, caches, bucket)."""
    use_storage(StorageConfig(**s3.storage()))
    bucket, path = s3.new_bucket(), tmp_path_factory.mktemp("nodes")
    for file in model_dir.iterdir():
        storage.put(f"{bucket}/model/{file.name}", file.read_bytes())
    for number in range(2):
        write_prompts(path / f"{number}.parquet", 160, first=160 * number)
        storage.put(f"{bucket}/in/{number}.parquet", (path / f"{number}.parquet").read_bytes())
    tree = generate_tree(f"{bucket}/model", f"{bucket}/in", f"{bucket}/out", unit_rows=16)
    tree["storage"] = s3.storage()
    tree["run"] |= {"actors": 2, "cpus_per_actor": 0.25, "gpus_per_actor": 1}
    with simulated_nodes(path / "cluster", {"head": {"num_cpus": 0}, "nodes": [NODE, NODE]}) as nodes:
        tree["run"]["ray_address"] = nodes.known["address"]
        engine = Stub(str(path / "marks"), step_s=0.1, fetches=True, together=2)
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
    return driver, path / "marks", caches, bucket.removeprefix("s3:/")


def test_two_nodes_share_the_rows_within_20_percent(run):
    driver, marks, _, _ = run
    done = rows_by_node(driver, marks)
    assert sum(done.values()) == 320
    assert set(done) == {"node0", "node1"}
    assert farthest_from_even(done) <= 0.2, done


def test_every_engine_is_loaded_once(run):
    driver, marks, _, _ = run
    assert sorted(int(mark.name) for mark in marks.iterdir()) == sorted(rows_by_actor(driver))


def test_weights_are_fetched_once_by_each_node_into_its_own_cache(run, s3):
    _, _, caches, bucket = run
    assert requests(s3, f"GET {bucket}/model/model.safetensors") == 2
    assert all(any(len(name) == 16 for name in names) for names in caches.values()), caches


def test_a_store_is_asked_a_few_times_for_each_shard_and_unit(run, s3):
    *_, bucket = run
    assert requests(s3, f"PUT {bucket}/out/data/part-") == 20
    assert (
        requests(s3, f"GET {bucket}/in/") <= 2 * 1 + 20 * 2
    )  # footers when planned; footer and rows of units
    assert requests(s3, f"GET {bucket}/out/data/part-") <= 20 * 2  # footers, at the end


def requests(s3, prefix: str) -> int:
    """Requests whose line begins so."""
    return sum(line.startswith(prefix) for line in s3.requests())
