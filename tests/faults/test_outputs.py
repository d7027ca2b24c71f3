"""Outputs that are full, damaged, or in use by another driver."""

import json
import os
import shutil
import subprocess
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orthrus_core.errors import ConfigError, OrthrusError
from pipelines.generate.lock import RunLock
from tests.fakes import fake_engine
from tests.faults.conftest import assert_whole, stub_tree
from tests.faults.engines import Stub
from tests.faults.runs import Driver, compare
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
    outcome = compare(str(small_disk / "out"), few_texts)
    said = str(caught.value)[:110]
    table.add(f"disk full after {len(kept)} of 20 units, then room", outcome, faults=1, runs=2, said=said)
    assert_whole(outcome)
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


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def spoil_footer(path: Path) -> None:
    content = bytearray(path.read_bytes())
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")  # length and magic end the file
    content[start : start + 20] = bytes(byte ^ 0xFF for byte in content[start : start + 20])
    path.write_bytes(content)


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
    outcome = compare(str(output), few_texts)
    said = str(caught.value)[:110]
    table.add("unit files truncated, bit-flipped, swapped, gone, empty", outcome, faults=5, runs=2, said=said)
    assert_whole(outcome)
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
    outcome = compare(str(output), few_texts)
    table.add(f"plan.json damaged ({damage.__name__})", outcome, faults=1)
    assert_whole(outcome)
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


def test_of_two_drivers_at_once_the_second_is_refused_and_the_first_finishes(
    few_tree, few_texts, tmp_path, drivers, table
):
    first, second = (
        Driver(few_tree, tmp_path / name, Stub(str(tmp_path / "marks"), step_s=0.1)) for name in ("a", "b")
    )
    drivers += [first, second]
    first.start()
    second.start()
    codes = sorted((first.wait(), second.wait()))
    refused = first if first.process.returncode else second
    last = refused.log.strip().split("\n")[-1]
    outcome = compare(str(few_tree["output"]["path"]), few_texts)
    table.add("two drivers started at once", outcome, faults=1, runs=2, said=last[:110])
    assert_whole(outcome)
    assert codes == [0, 2]
    assert "another run is at work there" in last


def test_a_driver_whose_lock_is_taken_over_stops_and_the_other_finishes(
    few_tree, few_texts, tmp_path, drivers, table
):
    driver = Driver(few_tree, tmp_path, Stub(str(tmp_path / "marks"), step_s=0.15))
    drivers.append(driver)
    driver.start()
    assert driver.wait_until(lambda: len(driver.committed()) >= 1)
    lock = Path(few_tree["output"]["path"], "_run/lock")
    lock.write_text(json.dumps(json.loads(lock.read_text()) | {"id": "another", "host": "elsewhere"}))
    assert driver.wait() == 1
    last = driver.log.strip().split("\n")[-1]
    assert "another driver took" in last
    lock.unlink()
    driver.start()
    assert driver.wait() == 0, driver.log[-3000:]
    outcome = compare(driver.output, few_texts)
    table.add("a driver's lock is taken over while it works", outcome, faults=1, runs=2, said=last[:110])
    assert_whole(outcome)


@pytest.mark.parametrize("hours", [-30, 30])
def test_clocks_that_are_hours_apart_do_not_matter_to_the_lock(tmp_path, table, hours, monkeypatch):
    import time as clock

    run_url = str(tmp_path / "_run")
    now = clock.time
    monkeypatch.setattr("time.time", lambda: now() + 3600 * hours)
    quick = {"beat_s": 0.1, "stale_s": 2.0, "settle_s": 0.1}
    stop = threading.Event()

    def disturb() -> None:
        while not stop.wait(0.02):
            with_time = now() - 3600 * hours
            try:
                os.utime(tmp_path / "_run/lock", (with_time, with_time))
            except FileNotFoundError:
                continue

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        with (
            RunLock(run_url, **quick),
            pytest.raises(ConfigError, match="another run is at work") as caught,
            RunLock(run_url, **quick),
        ):
            pass
        dead = {"id": "x", "host": "elsewhere", "boot": "b", "pid": 1, "started": "1", "beats": 3}
        (tmp_path / "_run/lock").write_text(json.dumps(dead))
        with RunLock(run_url, **quick) as lock:
            lock.check()
    finally:
        stop.set()
        thread.join()
    table.add(
        f"clocks {hours} h apart: living lock, dead lock", runs=4, faults=2, said=str(caught.value)[:110]
    )


def test_a_half_written_lock_is_waited_for_and_taken_over(tmp_path):
    lock = tmp_path / "_run/lock"
    lock.parent.mkdir()
    lock.write_bytes(b'{"id": "x", "ho')
    with RunLock(str(lock.parent), beat_s=0.1, stale_s=0.5, settle_s=0.1) as held:
        held.check()


@pytest.fixture
def shards(few_prompts, tmp_path) -> Path:
    """A copy of the four shards."""
    return shutil.copytree(few_prompts, tmp_path / "prompts")


def other_schema(path: Path) -> None:
    pq.write_table(pa.table({"text": ["x"] * 80}), path)


@pytest.mark.parametrize("damage", [truncate, spoil_footer, other_schema])
def test_a_bad_shard_fails_the_run_before_it_begins_or_is_skipped_and_reported(
    stub_ray, shards, few_texts, tmp_path, table, damage
):
    damage(shards / "2.parquet")
    tree = stub_tree(shards, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"1 bad input file\(s\): .*2.parquet") as caught:
        run_tree(tree, fake_engine)
    assert not (tmp_path / "out").exists()
    tree["input"]["on_bad_shard"] = "skip"
    _, report = run_tree(tree, fake_engine)
    good = {key: text for key, text in few_texts.items() if not 160 <= int(key[0][4:]) < 240}
    outcome = compare(str(tmp_path / "out"), good)
    said = f"fail: {str(caught.value)[:60]}; skip: done"
    table.add(f"a shard of four is bad ({damage.__name__})", outcome, faults=1, runs=2, said=said)
    assert_whole(outcome)
    assert "2.parquet" in json.dumps(report)


def test_a_shard_with_a_damaged_page_fails_after_the_good_ones_or_becomes_error_rows(
    stub_ray, shards, few_texts, tmp_path, table
):
    path = shards / "2.parquet"
    content = bytearray(path.read_bytes())
    content[4:200] = bytes(b ^ 0x5A for b in content[4:200])
    path.write_bytes(content)
    tree = stub_tree(shards, tmp_path / "out")
    with pytest.raises(OrthrusError, match=r"2.parquet") as caught:
        run_tree(tree, fake_engine)
    assert not (tmp_path / "out/_run/_SUCCESS").exists()
    tree["input"]["on_bad_shard"] = "skip"
    tree["output"]["path"] = str(tmp_path / "other")
    _, report = run_tree(tree, fake_engine)
    good = {key: text for key, text in few_texts.items() if not 160 <= int(key[0][4:]) < 240}
    outcome = compare(str(tmp_path / "other"), few_texts)
    partial = compare(str(tmp_path / "other"), good)
    said = f"fail: {str(caught.value)[:60]}; skip: {report['errors']} error rows"
    table.add("a shard's data page is bit-flipped", outcome, faults=1, runs=2, said=said)
    assert (outcome.rows_in, outcome.duplicates, partial.differing) == (outcome.rows_out, 0, 0)
    assert report["errors"] == 80
