"""`ray job submit` to a head on this machine: jobs in a copy of the project, prompts and model in it."""

import json
import time
import urllib.error
from pathlib import Path

import pyarrow.dataset as ds
import pytest
import yaml

from pipelines.storage.files import list_directory
from tests.jobs.submitting import ROOT, finish, local_head
from tests.pipelines.conftest import s3  # noqa: F401  fixture
from tests.pipelines.s3 import KEY, SECRET

pytestmark = [pytest.mark.ray, pytest.mark.timeout(420)]
SMALL = {
    "input": {
        "paths": "pipelines/demo/prompts/prompts-00000.parquet",
        "prompt": {"column": "prompt"},
        "id_column": "id",
    },
    "model": {"path": "pipelines/demo/model", "dtype": "float32", "device": "cpu"},
    "decode": {"max_sequences": 8, "max_context": 512, "compile": "off"},
    "sampling": {"max_new_tokens": 16},
    "run": {"unit_rows": 32, "cpus_per_actor": 0.5, "progress_every_s": 1.0},
    "audit": {"enabled": False},
}
WHOLE = ("--config", "configs/generate/demo.yaml", "--set", "run.unit_rows=16", "--set", "decode.compile=off")
PATIENT = {"RAY_JOB_STOP_WAIT_TIME_S": "100"}


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    with local_head(tmp_path_factory.mktemp("head")) as running:
        yield running


@pytest.fixture(scope="module")
def bucket(s3) -> str:  # noqa: F811
    """A bucket with a config in it."""
    url = s3.new_bucket()
    config = {**SMALL, "output": {"path": f"{url}/out"}}
    s3.client().pipe_file(f"{url}/run.yaml", yaml.safe_dump(config).encode())
    return url


@pytest.fixture(scope="module")
def jobs(head, bucket, s3) -> dict[str, tuple[int, str]]:  # noqa: F811
    """Two jobs at once on one head, one of them with a mistake: exit code and output of `ray job submit`."""
    reach = {"AWS_ENDPOINT_URL": s3.endpoint, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    good = head.submit("good", "--config", f"{bucket}/run.yaml", env_vars=reach)
    bad = head.submit("bad", "--config", "configs/generate/demo.yaml")
    return {"bad": finish(bad), "good": finish(good)}


def test_a_job_runs_from_the_copy_with_its_config_from_a_bucket(jobs, head, bucket, s3):  # noqa: F811
    code, output = jobs["good"]
    assert code == 0, output[-3000:]
    assert head.job("good")["status"] == "SUCCEEDED"
    table = ds.dataset(f"{bucket}/out/data".removeprefix("s3://"), filesystem=s3.client()).to_table()
    assert table.num_rows == ds.dataset(ROOT / SMALL["input"]["paths"]).count_rows()
    assert table.column("error").null_count == table.num_rows
    manifest = json.loads(s3.client().cat_file(f"{bucket}/out/_run/manifest.json"))
    assert [file["url"] for file in manifest["inputs"]] == [SMALL["input"]["paths"]]  # on every node


def test_the_submitting_terminal_follows_the_log(jobs):
    assert "INFO progress rows=" in jobs["good"][1]
    assert "Output: s3://" in jobs["good"][1]


def test_an_output_that_would_be_lost_with_the_copy_is_refused(jobs):
    code, output = jobs["bad"]
    assert code == 1  # Ray's, whatever the job's own code was
    assert "config error: output.path: outputs/demo lies in Ray's copy of the working directory" in output


def test_status_and_logs_tell_the_exit_code_and_why(jobs, head):
    job = head.job("bad")
    assert (job["status"], job["driver_exit_code"]) == ("FAILED", 2)
    code, output = head.run("status", "bad")
    assert code == 0
    assert "failed with exit code 2" in output
    assert "config error: output.path: outputs/demo" in output


def test_the_copy_holds_the_project_and_nothing_that_git_ignores(jobs, head):
    (copy,) = head.directory.glob("session_2*/runtime_resources/working_dir_files/_ray_pkg_*/")
    names = {path.name for path in copy.iterdir()}
    assert {"jobs", "pipelines", "orthrus_core", "configs"} <= names
    assert not names & {".venv", ".git", "outputs", "build", "tests"}
    assert sum(file.stat().st_size for file in copy.rglob("*") if file.is_file()) < 20 * 2**20


@pytest.mark.parametrize("token", ["", "0" * 64])
def test_nobody_without_the_token_is_let_in(head, token):
    with pytest.raises(urllib.error.HTTPError) as caught:
        head.ask("/api/jobs/", token=token)
    assert caught.value.code in (401, 403)


def test_the_head_listens_on_loopback_alone(head):
    listening = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(head.directory).encode() not in (process / "environ").read_bytes():
                continue
            sockets = {link.readlink().name for link in (process / "fd").iterdir()}
        except OSError:  # it has ended
            continue
        for table in ("tcp", "tcp6"):
            for line in (process / "net" / table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                    listening.add(fields[1].rpartition(":")[0])
    # 127.0.0.1 and the same mapped to IPv6, as /proc writes them
    assert listening
    assert listening <= {"0100007F", "0000000000000000FFFF00000100007F"}


@pytest.mark.slow
def test_stop_drains_and_the_same_submission_goes_on(head, tmp_path):
    job = (*WHOLE, "--set", f"output.path={tmp_path}/out")
    assert finish(head.submit("stopped", *job, env_vars=PATIENT, wait=False))[0] == 0
    wait_for_units(head, "stopped", tmp_path / "out", at_least=3)
    assert head.run("stop", "stopped")[0] == 0
    assert head.wait_until_ended("stopped")["status"] == "STOPPED"
    report = json.loads((tmp_path / "out/_run/report.json").read_text())
    assert (report["status"], report["exit_code"], report["reason"]) == ("interrupted", 3, "drained")
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out/data").glob("part-*")}
    assert 48 <= report["rows_done"] < 500

    code, output = finish(head.submit("resumed", *job, env_vars=PATIENT))
    assert code == 0, output[-3000:]
    now = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out/data").glob("part-*")}
    assert kept.items() <= now.items()
    ids = ds.dataset(tmp_path / "out/data").to_table(["id"]).column("id").to_pylist()
    assert len(ids) == len(set(ids)) == 500


@pytest.mark.slow
def test_of_two_jobs_on_one_output_the_second_is_refused(head, tmp_path):
    job = (*WHOLE, "--set", f"output.path={tmp_path}/out")
    first = head.submit("first", *job, env_vars=PATIENT)
    wait_for_units(head, "first", tmp_path / "out", at_least=1)
    code, output = finish(head.submit("second", *job, env_vars=PATIENT))
    assert code == 1
    assert head.job("second")["driver_exit_code"] == 2
    assert "another run is at work there" in output
    assert finish(first)[0] == 0
    assert ds.dataset(tmp_path / "out/data").count_rows() == 500


@pytest.mark.slow
def test_the_head_takes_all_it_started_with_it(tmp_path):
    with local_head(tmp_path, life_s=100) as head:
        mark = str(head.directory).encode()
        assert processes_with(mark)
    assert not processes_with(mark)
    assert not head.directory.exists()
    assert not (tmp_path / "head.env").exists()


def processes_with(mark: bytes) -> list[str]:
    """Processes that have a text in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in path.read_bytes():
                found.append(path.parent.name)
        except OSError:  # it has ended
            continue
    return found


def wait_for_units(head, name: str, output: Path, *, at_least: int) -> None:
    """Wait until a job has committed some units."""
    deadline = time.monotonic() + 200
    while len([unit for unit in list_directory(str(output / "data")) if unit[0] != "."]) < at_least:
        job = head.job(name)
        assert job["status"] in ("PENDING", "RUNNING"), job["message"]
        assert time.monotonic() < deadline
        time.sleep(0.1)
