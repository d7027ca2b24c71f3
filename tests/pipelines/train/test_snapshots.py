import json
import uuid
from pathlib import Path

import pytest
import torch

from pipelines.storage.files import put
from pipelines.storage.listing import list_tree
from pipelines.train import snapshots
from pipelines.train.snapshots import RunState, Snapshots, sweep_scratch


@pytest.fixture(params=["local", "memory"])
def run_url(request, tmp_path) -> str:
    """A directory, and an object store."""
    return str(tmp_path / "_run") if request.param == "local" else f"memory://{uuid.uuid4().hex}/_run"


def state(number: int) -> RunState:
    trainer = {"parameters": {"w": torch.full((3,), float(number))}, "progress": {"step": number}}
    return RunState(trainer, [{"taken": number}, {"taken": number + 1}])


def test_a_state_comes_back(run_url):
    saved = Snapshots(run_url, keep=2)
    saved.save(5, state(5))
    snapshot, found = Snapshots(run_url, keep=2).load_last()
    assert snapshot.step == 5
    assert torch.equal(found.trainer["parameters"]["w"], torch.full((3,), 5.0))
    assert found.streams == [{"taken": 5}, {"taken": 6}]


def test_there_is_none_in_a_new_place(run_url):
    assert Snapshots(run_url, keep=2).load_last() is None


def test_the_last_ones_are_kept(run_url):
    saved = Snapshots(run_url, keep=2)
    for step in (2, 9, 10, 100):
        saved.save(step, state(step))
    assert [snapshot.step for snapshot in saved.list()] == [10, 100]
    assert {file.url.split("/")[-2] for file in list_tree(f"{run_url}/checkpoints")} == {
        "step-00000010",
        "step-00000100",
    }


@pytest.mark.parametrize("dies_at", [0, 1, 2])
def test_a_save_that_dies_leaves_the_one_before(run_url, monkeypatch, dies_at):
    saved = Snapshots(run_url, keep=2)
    saved.save(1, state(1))
    calls = []

    def dies(name):
        original = getattr(snapshots, name)

        def call(*arguments):
            calls.append(name)
            if len(calls) > dies_at:
                raise KeyboardInterrupt
            return original(*arguments)

        return call

    for name in ("upload", "put"):  # two files, then the manifest
        monkeypatch.setattr(snapshots, name, dies(name))
    with pytest.raises(KeyboardInterrupt):
        saved.save(2, state(2))
    monkeypatch.undo()
    assert saved.load_last()[0].step == 1
    saved.save(2, state(2))
    assert saved.load_last()[1].streams[0] == {"taken": 2}


def test_a_damaged_one_is_passed_over(tmp_path, caplog):
    saved = Snapshots(str(tmp_path), keep=3)
    saved.save(1, state(1))
    saved.save(2, state(2))
    file = tmp_path / "checkpoints" / "step-00000002" / "state.pt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert saved.load_last()[0].step == 1
    assert "checkpoint_damaged" in caplog.text


def test_the_run_that_goes_on_before_a_damaged_one_replaces_it(tmp_path):
    saved = Snapshots(str(tmp_path), keep=1)
    saved.save(9, state(9))
    (tmp_path / "checkpoints" / "step-00000009" / "state.pt").write_bytes(b"")
    saved.save(4, state(4))
    assert [snapshot.step for snapshot in saved.list()] == [4]
    assert saved.load_last()[0].step == 4


def test_what_a_save_that_died_has_left_is_swept(run_url):
    saved = Snapshots(run_url, keep=2)
    saved.save(1, state(1))
    put(f"{run_url}/checkpoints/step-00000002/state.pt", b"half")
    saved.sweep()
    assert {file.url.split("/")[-2] for file in list_tree(f"{run_url}/checkpoints")} == {"step-00000001"}


def test_a_complete_one_is_not_written_again(run_url):
    saved = Snapshots(run_url, keep=2)
    first = saved.save(3, state(3))
    assert saved.save(3, state(99)) == first
    assert saved.load_last()[1].streams[0] == {"taken": 3}


def test_a_killed_process_s_scratch_is_swept(tmp_path):
    (tmp_path / ".scratch-abc").mkdir()
    (tmp_path / ".scratch-abc" / "state.pt").write_bytes(b"half")
    sweep_scratch(str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_the_manifest_names_sizes_and_hashes(tmp_path):
    Snapshots(str(tmp_path), keep=1).save(4, state(4))
    directory = Path(tmp_path, "checkpoints", "step-00000004")
    manifest = json.loads((directory / "manifest.json").read_text())
    assert manifest["step"] == 4
    assert manifest["files"]["state.pt"]["size"] == (directory / "state.pt").stat().st_size
