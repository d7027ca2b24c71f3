"""Workers of Ray Train: several of them, lost ones, a lost driver."""

import json
import os
import signal
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file

import orthrus_core
from orthrus_core.errors import ConfigError
from orthrus_core.models.attention import DIFFUSION_SUFFIX
from pipelines.train.job import train
from pipelines.train.snapshots import Snapshots
from tests.pipelines.conftest import generate_tree, run_tree
from tests.pipelines.train.conftest import QUICK
from tests.processes import ROOT, JobProcess

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

LONG = ["scaling.workers=1", "loop.max_tokens=40000", "loop.save_every_steps=5"]


@pytest.mark.slow
def test_two_workers_share_the_data_out(make_config, tmp_path, local_ray):
    settings = ("scaling.workers=2", "scaling.resources_per_worker={CPU: 0.5}", "loop.max_tokens=1200")
    progress = train(make_config(tmp_path / "head", *settings))
    assert progress.finished
    assert progress.tokens >= 1200
    state = Snapshots(str(tmp_path / "head" / "_run"), keep=2).load_last()[1]
    positions = [stream["documents"] for stream in state.streams]
    assert len(positions) == 2
    # 21 documents of an epoch: the first rank has 11, the second 10
    assert all(position["taken"] <= 11 - rank for rank, position in enumerate(positions))
    assert state.streams[0]["waiting"] != state.streams[1]["waiting"]
    assert orthrus_core.load_model(tmp_path / "head").config.block_size == 8


@pytest.mark.slow
def test_sharded_models_are_written_whole(make_config, tmp_path, local_ray):
    both = ("scaling.workers=2", "scaling.resources_per_worker={CPU: 0.5}", "loop.max_tokens=1200")
    for mode in ("ddp", "fsdp2"):
        train(make_config(tmp_path / mode, *both, f"scaling.mode={mode}"))
    copied, sharded = (load_file(tmp_path / mode / "model.safetensors") for mode in ("ddp", "fsdp2"))
    assert copied.keys() == sharded.keys()
    for name, weights in copied.items():
        # sums in another order, then rounded to BF16
        torch.testing.assert_close(sharded[name], weights, rtol=2e-2, atol=2e-3)
        assert DIFFUSION_SUFFIX in name or torch.equal(sharded[name], weights)


@pytest.mark.slow
def test_a_mistake_that_shows_in_a_worker_is_told_without_further_tries(make_config, tmp_path, local_ray):
    settings = ("scaling.workers=2", "scaling.resources_per_worker={CPU: 0.5}", "data.held_out_documents=23")
    with pytest.raises(ConfigError, match="scaling.workers must be <= 1, the documents to train on, got 2"):
        train(make_config(tmp_path / "head", *settings))


@pytest.mark.slow
def test_generate_runs_with_the_result(make_config, tmp_path, local_ray, prompts_dir):
    train(make_config(tmp_path / "head"))
    tree = generate_tree(tmp_path / "head", prompts_dir, tmp_path / "out", unit_rows=32)
    _, report = run_tree(tree)
    assert report["exit_code"] == 0
    files = sorted((tmp_path / "out" / "data").glob("*.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    assert len(rows) == 17
    assert all(row["completion_tokens"] > 0 for row in rows)


class Job(JobProcess):
    """jobs/train.py as a process of its own, whose output is `path`."""

    def __init__(self, path: Path, settings: list[str]):
        self.path = path
        command = [sys.executable, "jobs/train.py", "--config", "configs/train/demo-head.yaml"]
        command += [part for setting in settings for part in ("--set", setting)]
        super().__init__(command, path.parent, {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})

    def wait_for_checkpoint(self) -> None:
        """Wait for the first complete one."""
        assert self.wait_until(lambda: bool(self.checkpoints())), self.log[-3000:]

    def workers(self) -> list[int]:
        """Processes of Ray Train's workers."""
        return [pid for pid, _ in self.below() if b"RayTrainWorker" in _file(pid, "cmdline")]

    def checkpoints(self) -> list[int]:
        """Steps of complete checkpoints."""
        marks = self.path.glob("_run/checkpoints/*/manifest.json")
        return sorted(int(mark.parent.name.removeprefix("step-")) for mark in marks)


def _file(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


@pytest.fixture
def job(make_config, tmp_path, request):
    config = make_config(tmp_path / "head")
    fixed = [
        f"output.path={tmp_path / 'head'}",
        f"backbone={config.backbone}",
        f"data.path={config.data.path[0]}",
    ]
    started = Job(tmp_path / "head", [*QUICK, *fixed, *LONG, *getattr(request, "param", [])])
    yield started
    started.close()


@pytest.fixture(scope="module")
def undisturbed(make_config, tmp_path_factory) -> dict[str, torch.Tensor]:
    """Weights of the same training in one process, without Ray."""
    path = tmp_path_factory.mktemp("undisturbed") / "head"
    train(make_config(path, *LONG, "scaling.workers=0"))
    return load_file(path / "model.safetensors")


def assert_same(path: Path, expected: dict[str, torch.Tensor]) -> None:
    found = load_file(path / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.slow
def test_a_killed_worker_goes_on_by_itself_to_the_same_weights(job, undisturbed):
    job.start()
    job.wait_for_checkpoint()
    (worker,) = job.workers()
    environment = _file(worker, "environ").split(b"\0")
    assert b"OMP_NUM_THREADS=1" in environment
    assert b"MALLOC_TRIM_THRESHOLD_=4294967296" in environment
    os.kill(worker, signal.SIGKILL)
    assert job.wait() == 0, job.log[-3000:]
    assert_same(job.path, undisturbed)


@pytest.mark.slow
def test_a_killed_driver_s_run_goes_on_with_the_same_command_to_the_same_weights(job, undisturbed):
    job.start()
    job.wait_for_checkpoint()
    job.close(patience_s=30)
    assert not (job.path / "config.json").exists()
    steps = job.checkpoints()
    job.start()
    assert job.wait() == 0, job.log[-3000:]
    assert steps
    assert_same(job.path, undisturbed)
    assert json.loads((job.path / "training.json").read_text())["finished"]
    assert yaml.safe_load((job.path / "train_config.yaml").read_text())["scaling"]["workers"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("job", [["scaling.max_failures=0"]], indirect=True)
def test_a_worker_lost_once_too_often_names_the_last_checkpoint(job):
    job.start()
    job.wait_for_checkpoint()
    (worker,) = job.workers()
    os.kill(worker, signal.SIGKILL)
    assert job.wait() == 1
    last = job.log.strip().splitlines()[-1]
    assert last.startswith("failed: workers failed or were lost more than scaling.max_failures=0 times")
    assert f"last good checkpoint: {job.path}/_run/checkpoints/step-{job.checkpoints()[-1]:08}" in last


@pytest.mark.slow
def test_a_job_that_is_told_to_stop_goes_on_later(job, undisturbed):
    job.start()
    job.wait_for_checkpoint()
    job.signal(signal.SIGTERM)
    assert job.wait() == 3
    assert "interrupted: stopped by SIGTERM" in job.log
    job.start()
    assert job.wait() == 0, job.log[-3000:]
    assert_same(job.path, undisturbed)
