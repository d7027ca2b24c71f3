"""Which Ray cluster a job uses; `ray.init` is recorded, not run."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from orthrus_core.errors import ConfigError
from pipelines.cluster.config import RunConfig
from pipelines.cluster.resources import check_gpus, start_cluster


@pytest.fixture
def inits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Addresses that `ray.init` was called with; those that hold "gone" do not answer."""
    addresses: list[str] = []

    def init(*, address: str, **_: object) -> None:
        addresses.append(address)
        if "gone" in address:
            raise ConnectionError(f"nobody answers at {address}")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return addresses


@pytest.fixture
def listening() -> Iterator[str]:
    """An address where somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def _leave_address(tmp_path: Path, address: str) -> None:
    """As `ray start` does."""
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(address + "\n")


def test_without_a_started_cluster_the_job_has_its_own(inits: list[str]) -> None:
    assert start_cluster(RunConfig())
    assert inits == ["local"]  # never "auto", which joins another program's private cluster


def test_the_cluster_of_ray_start_is_joined(inits: list[str], tmp_path: Path, listening: str) -> None:
    _leave_address(tmp_path, listening)
    assert not start_cluster(RunConfig())
    assert inits == [listening]


@pytest.mark.parametrize("left", ["127.0.0.1:1", "", "no address"])
def test_a_started_cluster_that_is_gone_makes_way_for_a_local_one(
    inits: list[str], tmp_path: Path, left: str
) -> None:
    _leave_address(tmp_path, left)
    assert start_cluster(RunConfig())
    assert inits == ["local"]


def test_the_environment_goes_before_the_file(
    inits: list[str], tmp_path: Path, listening: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _leave_address(tmp_path, listening)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert not start_cluster(RunConfig())
    assert inits == ["10.0.0.1:6379"]


def test_an_address_that_was_asked_for_and_is_gone_is_an_error(inits: list[str]) -> None:
    with pytest.raises(ConfigError, match="run.ray_address gone:1"):
        start_cluster(RunConfig(ray_address="gone:1"))
    assert inits == ["gone:1"]


def test_an_address_of_the_environment_that_is_gone_is_named_as_such(
    inits: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "gone:2")
    with pytest.raises(ConfigError, match=r"^RAY_ADDRESS gone:2: nobody answers"):
        start_cluster(RunConfig())


def test_local_is_local_even_beside_a_started_cluster(
    inits: list[str], tmp_path: Path, listening: str
) -> None:
    _leave_address(tmp_path, listening)
    assert start_cluster(RunConfig(ray_address="local"))
    assert inits == ["local"]


@pytest.mark.parametrize(
    ("gpus", "run", "said"),
    [
        ([4, 2], {}, "model.tensor_parallel=8 needs so many GPUs on one node, the largest has 4"),
        (
            [8],
            {"gpus_per_actor": 1},
            "run.gpus_per_actor must be 8, model.tensor_parallel, or left out, got 1",
        ),
        ([8], {"actors": 2}, "run.actors=2 on cuda need 16 GPUs, Ray sees 8"),
    ],
)
def test_ranks_that_no_node_has_gpus_for_are_refused(
    monkeypatch: pytest.MonkeyPatch, gpus: list[int], run: dict, said: str
) -> None:
    nodes = [{"Alive": True, "Resources": {"GPU": count}} for count in gpus]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": sum(gpus)})
    with pytest.raises(ConfigError, match=said):
        check_gpus(RunConfig(**run), "cuda", 8, is_local=True)
