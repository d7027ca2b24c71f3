import json
import os
import subprocess
import sys
import threading
import uuid

import pytest

from orthrus_core.errors import ConfigError, OrthrusError
from pipelines.cluster.lock import RunLock, _this_process, refuse_second_driver
from pipelines.command.signals import Interrupted
from pipelines.storage.files import create, join, put, read_bytes, remove

QUICK = {"beat_s": 0.05, "stale_s": 0.6, "settle_s": 0.05}
ELSEWHERE = {"id": "x", "host": "another-machine", "boot": "b", "pid": 1, "started": "1", "beats": 3}


@pytest.fixture(params=["local", "memory"])
def run_url(request, tmp_path):
    return str(tmp_path / "_run") if request.param == "local" else f"memory://{uuid.uuid4().hex}/_run"


def test_a_file_is_created_once(run_url):
    assert create(join(run_url, "lock"), b"a")
    assert not create(join(run_url, "lock"), b"b")
    assert read_bytes(join(run_url, "lock")) == b"a"


def test_a_file_system_without_links_creates_a_file_once_too(tmp_path, monkeypatch):
    def no_links(*_):
        raise PermissionError("no hard links here")

    monkeypatch.setattr("pipelines.storage.files.os.link", no_links)
    path = str(tmp_path / "lock")
    assert [create(path, b"a"), create(path, b"b"), read_bytes(path)] == [True, False, b"a"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["lock"]


def test_a_driver_that_waited_for_one_that_ended_well_asks_to_start_again(run_url):
    put(join(run_url, "lock"), json.dumps(ELSEWHERE).encode())
    timer = threading.Timer(0.2, remove, [join(run_url, "lock")])
    timer.start()
    with (
        pytest.raises(ConfigError, match="was at work there and has just ended; start again"),
        RunLock(run_url, beat_s=0.05, stale_s=4.0, settle_s=0.05),
    ):
        pass
    timer.join()


def test_a_second_driver_is_refused_while_the_first_one_lives(run_url):
    with (
        RunLock(run_url, **QUICK),
        pytest.raises(ConfigError, match="output.path: another run is at work there: process"),
        RunLock(run_url, **QUICK),
    ):
        pass


def test_a_lock_that_cannot_be_written_is_a_config_error(tmp_path):
    (tmp_path / "out").write_bytes(b"a file")
    with (
        pytest.raises(ConfigError, match=r"output.path: cannot write .*/out"),
        RunLock(f"{tmp_path}/out/_run"),
    ):
        pass


def test_a_second_driver_on_the_machine_of_the_first_is_refused_at_once(run_url):
    with (
        RunLock(run_url, beat_s=1e6),
        pytest.raises(ConfigError, match=f"at work there: process {os.getpid()} on "),
        RunLock(run_url, stale_s=1e6),
    ):
        pass


def test_a_second_driver_can_be_told_before_it_tries(tmp_path):
    run_url = str(tmp_path / "_run")
    refuse_second_driver(str(tmp_path))
    with RunLock(run_url, **QUICK), pytest.raises(ConfigError, match=f"process {os.getpid()} on "):
        refuse_second_driver(str(tmp_path))
    put(join(run_url, "lock"), json.dumps(ELSEWHERE).encode())
    refuse_second_driver(str(tmp_path))  # RunLock watches that one's heartbeat


def test_a_driver_that_waits_says_so_and_for_whom_before_it_does(run_url, monkeypatch, caplog):
    put(join(run_url, "lock"), json.dumps(ELSEWHERE).encode())
    monkeypatch.setattr("pipelines.cluster.lock.time.sleep", lambda _: said.append(caplog.text))
    said: list[str] = []
    with RunLock(run_url, **QUICK):
        pass
    assert "process 1 on another-machine holds" in said[0]
    assert "watching its heartbeat for up to 1 s" in said[0]


def test_the_lock_is_given_back(run_url):
    with RunLock(run_url, **QUICK):
        pass
    assert read_bytes(join(run_url, "lock")) is None
    with RunLock(run_url, **QUICK) as lock:
        lock.check()


def test_a_signal_while_the_lock_is_taken_leaves_none(run_url, monkeypatch):
    def create_and_stop(url, content):
        assert create(url, content)
        raise Interrupted("stopped by SIGTERM")

    monkeypatch.setattr("pipelines.cluster.lock.create", create_and_stop)
    with pytest.raises(Interrupted), RunLock(run_url):
        pytest.fail("the lock was entered")
    assert read_bytes(join(run_url, "lock")) is None


def test_a_lock_without_heartbeat_is_taken_over(run_url):
    put(join(run_url, "lock"), json.dumps(ELSEWHERE).encode())
    with RunLock(run_url, **QUICK):
        assert json.loads(read_bytes(join(run_url, "lock")))["pid"] == _this_process()["pid"]


def test_a_driver_that_died_on_this_machine_is_not_waited_for(run_url):
    child = [
        sys.executable,
        "-c",
        "import json; from pipelines.cluster.lock import _this_process as p; print(json.dumps(p()))",
    ]
    dead = json.loads(subprocess.run(child, check=True, capture_output=True, text=True).stdout)
    put(join(run_url, "lock"), json.dumps({"id": "x", "beats": 0, **dead}).encode())
    with RunLock(run_url, beat_s=0.05, stale_s=1e6, settle_s=0.0) as lock:
        lock.check()


def test_a_driver_whose_lock_was_taken_over_stops_and_leaves_it_alone(run_url):
    with RunLock(run_url, **QUICK) as lock:
        put(join(run_url, "lock"), json.dumps(ELSEWHERE).encode())
        lock._thread.join(timeout=10)
        with pytest.raises(OrthrusError, match="another driver took"):
            lock.check()
    assert json.loads(read_bytes(join(run_url, "lock"))) == ELSEWHERE


def test_storage_that_fails_for_a_while_does_not_end_the_heartbeat(run_url, monkeypatch, caplog):
    failed = threading.Event()

    def failing(url, data):
        if not failed.is_set():
            failed.set()
            raise OSError("503")
        put(url, data)

    with RunLock(run_url, **QUICK):
        monkeypatch.setattr("pipelines.cluster.lock.put", failing)
        assert failed.wait(5)
        while json.loads(read_bytes(join(run_url, "lock")))["beats"] < 2:
            pass
    assert "heartbeat failed: OSError: 503" in caplog.text


def test_of_two_that_take_over_at_once_one_gives_way(run_url, monkeypatch):
    put(join(run_url, "lock"), json.dumps(ELSEWHERE).encode())

    def overtaken(url, data):
        put(url, data)
        put(url, json.dumps(ELSEWHERE | {"id": "the other"}).encode())

    monkeypatch.setattr("pipelines.cluster.lock.put", overtaken)
    with pytest.raises(ConfigError, match="at the same moment"), RunLock(run_url, **QUICK):
        pass


@pytest.mark.parametrize("content", [b"", b'{"id": "x", "ho', b"[]", b'{"id": "x"}'])
def test_a_damaged_lock_without_heartbeat_is_taken_over(run_url, content):
    put(join(run_url, "lock"), content)
    with RunLock(run_url, **QUICK) as lock:
        lock.check()


def test_a_half_written_lock_that_becomes_whole_belongs_to_a_living_driver(run_url):
    put(join(run_url, "lock"), b"")
    timer = threading.Timer(0.2, put, [join(run_url, "lock"), json.dumps(ELSEWHERE).encode()])
    timer.start()
    with (
        pytest.raises(ConfigError, match="another run is at work there: process 1 on another-machine"),
        RunLock(run_url, beat_s=0.05, stale_s=4.0, settle_s=0.05),
    ):
        pass
    timer.join()
