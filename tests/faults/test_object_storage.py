"""Prompts and output on S3 while the store fails, is slow, breaks connections or takes permissions away."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from orthrus_core.errors import ConfigError, OrthrusError
from pipelines.cluster.lock import RunLock
from pipelines.storage.config import StorageConfig, use_storage
from pipelines.storage.files import join, put, read_bytes
from tests.faults.conftest import stub_tree
from tests.faults.engines import Stub
from tests.faults.proxy import Rule, fault_proxy
from tests.pipelines.conftest import run_tree
from tests.pipelines.s3 import s3_server
from tests.processes import wait_until

pytestmark = [pytest.mark.fault, pytest.mark.ray, pytest.mark.timeout(300)]

DATA = r".*/data/part-"
QUICK = {"beat_s": 0.1, "stale_s": 2.0, "settle_s": 0.1}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with s3_server(str(tmp_path_factory.mktemp("s3") / "log")) as running:
        yield running


@pytest.fixture(scope="module")
def module_proxy(server):
    with fault_proxy(server.endpoint) as running:
        yield running


@pytest.fixture
def proxy(module_proxy):
    yield module_proxy
    module_proxy.clear()


@pytest.fixture
def bucket(server) -> str:
    return server.new_bucket()


@pytest.fixture
def storage(server, proxy) -> dict[str, Any]:
    """The section that reaches the store through the proxy; this process does so from here on."""
    section = server.storage(endpoint_url=proxy.endpoint)
    use_storage(StorageConfig.model_validate(section))
    return section


@pytest.fixture
def s3_tree(server, bucket, storage, few_prompts) -> dict[str, Any]:
    """A config with prompts and output in the bucket."""
    client = server.client()
    for path in sorted(Path(few_prompts).iterdir()):
        client.pipe_file(f"{bucket}/prompts/{path.name}", path.read_bytes())
    return {**stub_tree(f"{bucket}/prompts", f"{bucket}/out"), "storage": storage}


def stub(tmp_path: Path) -> Stub:
    return Stub(str(tmp_path / "marks"), step_s=0.03)


def after_units(server, url: str, count: int, act) -> threading.Thread:
    """Call `act` once `count` units are committed, in a thread."""
    client = server.client()

    def watch() -> None:
        data = f"{url}/data"
        wait_until(lambda: client.exists(data) and len(client.ls(data)) >= count, 120, look_s=0.1)
        act()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def said(proxy) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(proxy.hits.items()))


ERRORS = (
    Rule("status", status=500, every=7, count=30),
    Rule("status", status=503, every=5, count=40),
    Rule("slow", every=6, count=20, seconds=1.0),
)
BREAKS = (
    Rule("reset", every=7, count=30),
    Rule("truncate", "GET .*parquet", every=3, count=12),
    Rule("lost", "PUT ", every=4, count=15),
)


@pytest.mark.parametrize(
    ("name", "rules", "least"), [("errors and slowness", ERRORS, 25), ("broken connections", BREAKS, 15)]
)
def test_a_store_that_fails_at_times_changes_nothing(
    stub_ray, server, proxy, s3_tree, few_texts, tmp_path, table, name, rules, least
):
    proxy.add(*(Rule(**vars(rule)) for rule in rules))
    run_tree(s3_tree, stub(tmp_path))
    hits, faults = said(proxy), sum(proxy.hits.values())
    proxy.clear()
    output, client = s3_tree["output"]["path"], server.client()
    table.assert_whole(f"S3: {name} ({hits})", output, few_texts, client, faults=faults)
    assert faults >= least


def test_a_store_that_is_away_for_eight_seconds_is_waited_for(
    stub_ray, server, proxy, s3_tree, few_texts, tmp_path, table
):
    def outage() -> None:
        proxy.add(Rule("status", status=503))
        time.sleep(8)
        hits.append(sum(proxy.hits.values()))
        proxy.clear()

    hits: list[int] = []
    watcher = after_units(server, s3_tree["output"]["path"], 3, outage)
    run_tree(s3_tree, stub(tmp_path))
    watcher.join(60)
    output, client = s3_tree["output"]["path"], server.client()
    table.assert_whole("S3: every request refused (503) for 8 s", output, few_texts, client, faults=hits[0])
    assert hits[0] > 0


def test_a_permission_lost_in_the_middle_fails_clearly_and_the_rest_is_done_once_it_is_back(
    stub_ray, server, proxy, s3_tree, few_texts, tmp_path, table
):
    output = s3_tree["output"]["path"]
    watcher = after_units(server, output, 4, lambda: proxy.add(Rule("status", "PUT ", status=403)))
    with pytest.raises(OrthrusError, match=r"(?i)refused|denied") as caught:
        run_tree(s3_tree, stub(tmp_path))
    watcher.join(60)
    faults = sum(proxy.hits.values())
    proxy.clear()
    assert "\n" not in str(caught.value)
    kept = {info["name"]: info["ETag"] for info in server.client().ls(f"{output}/data", detail=True)}
    assert len(kept) >= 4
    assert not server.client().exists(f"{output}/_run/_SUCCESS")

    job, _ = run_tree(s3_tree, stub(tmp_path))

    now = {info["name"]: info["ETag"] for info in server.client().ls(f"{output}/data", detail=True)}
    assert {name: now[name] for name in kept} == kept
    assert len(job.units) == len(job.plan.units) - len(kept)
    table.assert_whole(
        "S3: PUT refused (403) from some moment, then allowed",
        output,
        few_texts,
        server.client(),
        faults=faults,
        runs=2,
        said=short(caught),
    )


def test_a_lock_whose_answer_was_lost_is_known_to_be_ones_own(storage, proxy, bucket, table):
    run_url = f"{bucket}/locks/_run"
    proxy.add(Rule("lost", "PUT .*/lock", count=1))
    with RunLock(run_url, **QUICK) as lock:
        lock.check()
        assert proxy.hits["lost"] == 1
    assert read_bytes(join(run_url, "lock")) is None
    table.add("S3: the answer to the lock's conditional PUT is lost", faults=1, said="lock taken, given back")


def test_a_second_driver_on_a_bucket_is_refused(storage, bucket, table):
    run_url = f"{bucket}/locks/_run"
    with RunLock(run_url, **QUICK):
        for _ in range(2):
            with (
                pytest.raises(ConfigError, match="another run is at work there") as caught,
                RunLock(run_url, **QUICK),
            ):
                pass
    table.add("S3: a second driver while the first one lives", runs=3, faults=2, said=short(caught))


def test_a_lock_on_a_bucket_of_a_machine_that_died_is_taken_over(storage, bucket):
    run_url = f"{bucket}/locks/_run"
    dead = {"id": "x", "host": "another-machine", "boot": "b", "pid": 1, "started": "1", "beats": 3}
    put(join(run_url, "lock"), json.dumps(dead).encode())
    with RunLock(run_url, **QUICK) as lock:
        lock.check()


def test_a_heartbeat_outlives_a_store_that_fails_for_a_while(storage, proxy, bucket):
    run_url = f"{bucket}/locks/_run"
    with RunLock(run_url, **QUICK) as lock:
        proxy.add(Rule("status", status=503, count=6))
        wait_until(lambda: json.loads(read_bytes(join(run_url, "lock")))["beats"] >= 2, 60, look_s=0.2)
        lock.check()
    assert proxy.hits["status 503"] == 6


def short(caught) -> str:
    return str(caught.value)[:120].replace("|", "/")
