"""Outputs that are full, damaged, or in use by another driver."""

import json
import shutil
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from orthrus_core.errors import ConfigError, OrthrusError
from tests.fakes import fake_engine
from tests.faults.conftest import stub_tree
from tests.faults.damage import empty, spoil_footer, truncate
from tests.faults.engines import Stub
from tests.pipelines.conftest import run_tree

pytestmark = [pytest.mark.fault, pytest.mark.ray, pytest.mark.timeout(300)]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 768 KiB."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=768k", "none", str(path)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_fails_clearly_and_the_rest_is_done_once_there_is_room(
    stub_ray, small_disk, few_prompts, few_texts, tmp_path, table
):
    tree = stub_tree(few_prompts, small_disk / "out")
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(600 * 1024))
    with pytest.raises(OrthrusError, match="No space left on device") as caught:
        run_tree(tree, Stub(str(tmp_path / "marks"), step_s=0.0))
    kept = {path.name: path.stat().st_mtime_ns for path in small_disk.glob("out/data/part-*")}
    for path in small_disk.glob("out/data/part-*"):
        pq.read_table(path)
    assert not (small_disk / "out/_run/_SUCCESS").exists()
    ballast.unlink()
    job, _ = run_tree(tree, Stub(str(tmp_path / "marks"), step_s=0.0))
    scenario, said = f"disk full after {len(kept)} of 20 units, then room", str(caught.value)[:110]
    table.assert_whole(scenario, small_disk / "out", few_texts, faults=1, runs=2, said=said)
    assert len(job.units) == 20 - len(kept)
    assert {
        p.name: p.stat().st_mtime_ns for p in small_disk.glob("out/data/part-*") if p.name in kept
    } == kept


@pytest.fixture(scope="module")
def finished_output(stub_ray, few_prompts, tmp_path_factory) -> Path:
    """A whole output of a run over `few_prompts`."""
    path = tmp_path_factory.mktemp("finished") / "out"
    run_tree(stub_tree(few_prompts, path), fake_engine)
    return path


@pytest.fixture
def output(finished_output, tmp_path) -> Path:
    """A copy of a whole output that lacks the mark of success, as after a kill at the end."""
    path = tmp_path / "out"
    shutil.copytree(finished_output, path)
    (path / "_run/_SUCCESS").unlink()
    return path


def swap_with_neighbour(path: Path) -> None:
    shutil.copy(path.with_name("part-00000-00001.parquet"), path)


def test_damaged_unit_files_are_found_and_made_again(stub_ray, output, few_prompts, few_texts, table):
    faults = (truncate, spoil_footer, swap_with_neighbour, Path.unlink)
    for shard, damage in enumerate(faults):
        damage(output / f"data/part-{shard:05}-00000.parquet")
    empty(output / "data/part-00003-00002.parquet")
    tree = stub_tree(few_prompts, output)
    with pytest.raises(
        OrthrusError, match=r"3 damaged unit file\(s\) removed: .*same command makes them"
    ) as caught:
        run_tree(tree, fake_engine)
    assert json.loads((output / "_run/report.json").read_text())["status"] == "failed"
    assert not (output / "_run/_SUCCESS").exists()
    job, _ = run_tree(tree, fake_engine)
    scenario, said = "unit files truncated, bit-flipped, swapped, gone, empty", str(caught.value)[:110]
    table.assert_whole(scenario, output, few_texts, faults=5, runs=2, said=said)
    assert len(job.units) == 3


def test_a_unit_file_of_another_run_is_refused_and_left_alone(stub_ray, output, few_prompts, table):
    path = output / "data/part-00001-00001.parquet"
    other = pq.read_table(path)
    footer = json.loads(other.schema.metadata[b"orthrus"])
    pq.write_table(
        other.replace_schema_metadata({b"orthrus": json.dumps(footer | {"fingerprint": "f0"}).encode()}), path
    )
    content = path.read_bytes()
    with pytest.raises(
        OrthrusError, match=r"1 file\(s\) of another run in data/: .*move them away"
    ) as caught:
        run_tree(stub_tree(few_prompts, output), fake_engine)
    assert path.read_bytes() == content
    assert not (output / "_run/_SUCCESS").exists()
    table.add("a unit file of another run", faults=1, said=str(caught.value)[:110])


@pytest.mark.parametrize("damage", [truncate, empty])
def test_a_damaged_plan_is_made_again_the_same(stub_ray, output, few_prompts, few_texts, table, damage):
    plan = (output / "_run/plan.json").read_bytes()
    damage(output / "_run/plan.json")
    (output / "data/part-00002-00003.parquet").unlink()
    job, _ = run_tree(stub_tree(few_prompts, output), fake_engine)
    assert (output / "_run/plan.json").read_bytes() == plan
    table.assert_whole(f"plan.json damaged ({damage.__name__})", output, few_texts, faults=1)
    assert len(job.units) == 1


@pytest.mark.parametrize("damage", [truncate, empty])
def test_a_damaged_manifest_is_refused_and_nothing_is_touched(output, few_prompts, table, damage):
    damage(output / "_run/manifest.json")
    before = contents(output)
    with pytest.raises(
        ConfigError, match=r"_run/manifest.json is damaged .*choose another output.path"
    ) as caught:
        run_tree(stub_tree(few_prompts, output), fake_engine)
    assert contents(output) == before
    table.add(f"manifest.json damaged ({damage.__name__})", faults=1, said=str(caught.value)[-110:])


def test_another_runs_manifest_is_refused_and_nothing_is_touched(output, few_prompts, table):
    tree = stub_tree(few_prompts, output)
    tree["sampling"] = {"max_new_tokens": 25}
    before = contents(output)
    with pytest.raises(
        ConfigError, match="belongs to another run: sampling.max_new_tokens was 24, is 25"
    ) as caught:
        run_tree(tree, fake_engine)
    assert contents(output) == before
    table.add("output.path of another run", faults=1, said=str(caught.value)[-110:])


@pytest.mark.parametrize("name", ["notes.txt", "part-00077-00000.parquet"])
def test_unknown_files_in_data_are_refused_and_nothing_is_touched(output, few_prompts, table, name):
    (output / "data" / name).write_bytes(b"x")
    before = contents(output)
    with pytest.raises(ConfigError, match=f"files of no unit: {name}") as caught:
        run_tree(stub_tree(few_prompts, output), fake_engine)
    assert contents(output) == before
    table.add(f"an unknown file in data/ ({name})", faults=1, said=str(caught.value)[-110:])


def contents(path: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}
