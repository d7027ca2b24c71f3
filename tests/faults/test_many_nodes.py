"""A head without work and four nodes: how rows spread, nodes that come and go, pools that grow and shrink."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.storage import files as storage
from pipelines.storage.config import StorageConfig, use_storage
from tests.faults.conftest import prompts_in, stub_tree
from tests.faults.engines import Stub
from tests.faults.nodes import Nodes, farthest_from_even, rows_by_node, simulated_nodes
from tests.faults.runs import Driver, texts_of
from tests.faults.test_nodes import kill_node
from tests.pipelines.conftest import TOKENIZER_FILES, s3, write_prompts  # noqa: F401  fixture
from tests.processes import PATIENCE_S, ROOT, is_living

pytestmark = [pytest.mark.fault, pytest.mark.ray, pytest.mark.timeout(900)]
NODE = {"num_cpus": 1, "num_gpus": 1}
POOL = {"cpus_per_actor": 0.25, "gpus_per_actor": 1}


@pytest.fixture
def nodes(tmp_path) -> Iterator[Nodes]:
    """A head without CPUs for work, and four workers with a stub GPU each."""
    layout = {"head": {"num_cpus": 0, "include_dashboard": True}, "nodes": [NODE] * 4}
    with simulated_nodes(tmp_path / "cluster", layout) as running:
        yield running


@pytest.fixture
def two_nodes(tmp_path) -> Iterator[Nodes]:
    """Two of the four."""
    with simulated_nodes(tmp_path / "cluster", {"head": {"num_cpus": 0}, "nodes": [NODE] * 2}) as running:
        yield running


@pytest.fixture
def start(tmp_path, new_driver):
    """Start a driver on a cluster, with options of its section run."""

    def start_on(nodes: Nodes, prompts: Path, *, step_s: float = 0.05, together: int = 1, **run) -> Driver:
        tree = stub_tree(prompts, tmp_path / "out")
        tree["run"] |= POOL | {"ray_address": nodes.known["address"]} | run
        engine = Stub(str(tmp_path / "marks"), step_s=step_s, together=together)
        return new_driver(tree, engine, environment=nodes.environment).start()

    return start_on


@pytest.fixture
def prompts(tmp_path) -> Path:
    """640 prompts in eight shards, 40 units."""
    return prompts_in(tmp_path / "prompts", shards=8, rows=80)


def living(marks: Path) -> int:
    """Engines whose process runs."""
    return sum(_start_of(mark.name) is not None for mark in marks.glob("*"))


def _start_of(pid: str) -> str | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[19] if is_living(int(pid), fields[19]) else None


def test_four_nodes_share_the_rows_within_20_percent(nodes, prompts, start, tmp_path):
    # engines take the time, as with models: while they wait for units, those near a unit's reader get it
    driver = start(nodes, prompts, actors=4, together=4, step_s=0.3)
    assert driver.wait() == 0, driver.log[-3000:]
    done = rows_by_node(driver, tmp_path / "marks")
    assert set(done) == {"node0", "node1", "node2", "node3"}
    assert sum(done.values()) == len(texts_of(driver.output)[1]) == 640
    assert farthest_from_even(done) <= 0.2, done


def test_nodes_that_join_late_take_rows(two_nodes, prompts, start, tmp_path):
    driver = start(two_nodes, prompts, actors=4)
    assert driver.wait_until(lambda: len(driver.committed()) >= 4)
    assert len(list((tmp_path / "marks").iterdir())) == 2
    two_nodes.add(NODE)
    assert driver.wait_until(lambda: len(two_nodes.known["nodes"]) == 3)
    two_nodes.add(NODE)
    assert driver.wait() == 0, driver.log[-3000:]
    done = rows_by_node(driver, tmp_path / "marks")
    assert sum(done.values()) == 640
    assert set(done) >= {"node0", "node1", "node2"}, done


def test_a_lost_node_of_four_costs_no_row(nodes, prompts, start, tmp_path, few_texts, table):
    few = prompts_in(tmp_path / "few", shards=4, rows=80)
    driver = start(nodes, few, actors=4, together=4)
    marks = tmp_path / "marks"
    assert driver.wait_until(lambda: len(driver.committed()) >= 3 and len(list(marks.glob("*"))) == 4)
    kill_node(nodes.known["nodes"]["node2"]["raylet"])
    assert driver.wait() == 0, driver.log[-3000:]
    table.assert_whole("SIGKILL of one node of four", driver.output, few_texts, faults=1)


def test_a_pool_grows_from_actors_to_max_actors_and_no_further(nodes, prompts, start, tmp_path):
    driver = start(nodes, prompts, actors=1, max_actors=3, step_s=0.3)  # a new engine takes a while to come
    marks, most = tmp_path / "marks", 0

    def look() -> bool:
        nonlocal most
        most = max(most, living(marks))
        return False

    driver.wait_until(look, look_s=0.2)
    assert driver.wait() == 0, driver.log[-3000:]
    assert most == 3
    assert len(list(marks.iterdir())) == 3


def test_engines_without_work_are_given_back_in_the_tail(nodes, start, tmp_path):
    prompts = prompts_in(tmp_path / "prompts", shards=24, rows=16)
    write_prompts(prompts / "z.parquet", 400, first=1000)  # one unit that takes long
    driver = start(nodes, prompts, actors=1, max_actors=4, unit_rows=400, step_s=0.3)
    marks = tmp_path / "marks"
    assert driver.wait_until(lambda: living(marks) >= 2)
    assert driver.wait_until(lambda: len(driver.committed()) == 24 and living(marks) == 1)
    assert driver.is_running
    assert driver.wait() == 0, driver.log[-3000:]
    assert len(driver.committed()) == 25


def test_weights_are_fetched_once_by_a_node_with_two_engines(s3, model_dir, tmp_path, new_driver):  # noqa: F811
    use_storage(StorageConfig(**s3.storage()))
    bucket = s3.new_bucket()
    for file in model_dir.iterdir():
        storage.put(f"{bucket}/model/{file.name}", file.read_bytes())
    tree = stub_tree(prompts_in(tmp_path / "prompts", shards=4, rows=80), tmp_path / "out")
    tree |= {"model": {**tree["model"], "path": f"{bucket}/model"}, "storage": s3.storage()}
    layout = {"head": {"num_cpus": 0}, "nodes": [{"num_cpus": 2, "num_gpus": 2}] * 2}
    with simulated_nodes(tmp_path / "cluster", layout) as nodes:
        tree["run"] |= POOL | {"ray_address": nodes.known["address"], "actors": 4}
        engine = Stub(str(tmp_path / "marks"), step_s=0.05, fetches=True)
        driver = new_driver(tree, engine, environment=nodes.environment).start()
        assert driver.wait() == 0, driver.log[-3000:]
    assert len(list((tmp_path / "marks").iterdir())) == 4
    weights = f"{bucket.removeprefix('s3:/')}/model/model.safetensors"
    assert sum(line.startswith(f"GET {weights}") for line in s3.requests()) == 2


def test_a_submitted_job_finds_its_model_and_prompts_on_nodes_with_other_directories(nodes, tmp_path):
    address = f"http://{nodes.known['dashboard']}"
    options = ["--address", address, "--submission-id", "spread", "--working-dir", "."]
    sets = ["run.actors=2", "run.unit_rows=32", "run.gpus_per_actor=1", "run.cpus_per_actor=0.25"]
    sets += [f"output.path={tmp_path}/out", "decode.compile=off", "sampling.max_new_tokens=16"]
    job = [sys.executable, "jobs/generate.py", "--config", "configs/generate/demo.yaml"]
    job += [part for setting in sets for part in ("--set", setting)]
    code = "from ray.scripts.scripts import main; main()"
    for _ in range(10):
        done = subprocess.run(
            [sys.executable, "-c", code, "job", "submit", *options, "--", *job],
            env={**os.environ, **nodes.environment},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        if "No available agent" not in done.stderr:  # those of a laden machine take a while to come
            break
    assert done.returncode == 0, done.stdout[-4000:]
    report = json.loads((tmp_path / "out/_run/report.json").read_text())
    assert (report["status"], report["rows"]) == ("done", 500)
    # on this machine every node could read the head's copy too; other machines need a path from its root
    manifest = json.loads((tmp_path / "out/_run/manifest.json").read_text())
    assert manifest["inputs"][0]["url"] == "pipelines/demo/prompts/prompts-00000.parquet"
