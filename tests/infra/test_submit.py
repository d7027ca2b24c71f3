"""The CronJob's program, against a Kubernetes API of a few lines."""

import datetime
import importlib.util
import json
import shlex
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from infra.validate.check import faults
from infra.validate.kustomize import build
from infra.validate.schemas import Schemas
from orthrus_core.errors import ConfigError
from pipelines.cluster.lock import RunLock

KUBERAY = Path(__file__).parents[2] / "infra/kuberay"
NIGHT = datetime.datetime(2026, 11, 22, 1, 0, tzinfo=datetime.UTC)
MINUTES = 29921820  # of NIGHT since 1970
OUTPUT = "output.path=s3://bucket/nightly/{time}"
ARGUMENTS = ["--template=orthrus-generate", "--set=input.paths=s3://bucket/prompts/{date}", f"--set={OUTPUT}"]


@pytest.fixture(scope="module")
def submit():
    spec = importlib.util.spec_from_file_location("submit", KUBERAY / "submit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def template():
    [job] = [
        thing
        for thing in build(KUBERAY / "overlays/gpu-spot")
        if (thing["kind"], thing["metadata"]["name"]) == ("RayJob", "orthrus-generate")
    ]
    return job


class Api(ThreadingHTTPServer):
    """Keeps RayJobs by name, as the real one would; refuses a name twice."""

    def __init__(self, job):
        self.jobs = {job["metadata"]["name"]: job}
        self.tokens = set()
        super().__init__(("127.0.0.1", 0), Answer)


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):  # noqa: N802
        self.server.tokens.add(self.headers["Authorization"])
        job = self.server.jobs.get(self.path.rsplit("/", 1)[1])
        self.say(200 if job else 404, job or {"message": f"not found: {self.path}"})

    def do_POST(self):  # noqa: N802
        job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/apis/ray.io/v1/namespaces/orthrus/rayjobs"
        if job["metadata"]["name"] in self.server.jobs:
            return self.say(409, {"message": "already exists"})
        self.server.jobs[job["metadata"]["name"]] = job
        return self.say(201, job)

    def say(self, status, body):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def api(submit, template, tmp_path, monkeypatch):
    (tmp_path / "namespace").write_text("orthrus\n")
    (tmp_path / "token").write_text("t0ken\n")
    monkeypatch.setattr(submit, "IDENTITY", tmp_path)
    server = Api(template)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.server_port))
    monkeypatch.setenv("KUBERNETES_SERVICE_SCHEME", "http")
    monkeypatch.setenv("JOB_NAME", f"orthrus-nightly-{MINUTES}")
    monkeypatch.setenv("JOB_UID", "5f1c")
    yield server
    server.shutdown()
    server.server_close()


def test_a_job_runs_under_the_time_that_it_was_scheduled_for(submit, api):
    assert submit.main(ARGUMENTS) == 0
    job = api.jobs["orthrus-generate-202611220100"]
    assert job["spec"]["entrypoint"].endswith(
        " --set input.paths=s3://bucket/prompts/2026-11-22 --set output.path=s3://bucket/nightly/2026-11-22T0100Z"
    )
    assert "suspend" not in job["spec"]
    assert job["metadata"]["ownerReferences"][0]["uid"] == "5f1c"
    assert api.tokens == {"Bearer t0ken"}


def test_what_it_creates_is_a_valid_ray_job(submit, api):
    submit.main(ARGUMENTS)
    things = [t for t in build(KUBERAY / "overlays/gpu-spot") if t["kind"] != "RayJob"]
    job = api.jobs["orthrus-generate-202611220100"]
    job["metadata"]["name"] = "orthrus-generate-n"  # the bound on names leaves room for the time
    assert faults([*things, job], Schemas()) == []


def test_the_same_time_twice_makes_one_job(submit, api, capsys):
    assert [submit.main(ARGUMENTS), submit.main(ARGUMENTS)] == [0, 0]
    assert len(api.jobs) == 2  # the template and one
    assert "already there" in capsys.readouterr().err


def test_yesterday_is_the_day_before_that_of_the_schedule(submit):
    first = datetime.datetime(2027, 1, 1, 1, 0, tzinfo=datetime.UTC)
    assert submit.stamped("input.paths=p/{yesterday}/{date}", first) == "input.paths=p/2026-12-31/2027-01-01"


def test_an_option_with_a_space_stays_one_option(submit, template):
    job = submit.stamped_job(template, NIGHT, ["input.paths=s3://b/my prompts/{date}"])
    assert shlex.split(job["spec"]["entrypoint"])[-2:] == [
        "--set",
        "input.paths=s3://b/my prompts/2026-11-22",
    ]


def test_two_nights_have_two_outputs(submit, template):
    later = NIGHT + datetime.timedelta(days=1)
    first, second = (submit.stamped_job(template, time, [OUTPUT]) for time in (NIGHT, later))
    assert first["metadata"]["name"] != second["metadata"]["name"]
    assert first["spec"]["entrypoint"] != second["spec"]["entrypoint"]


def test_runs_of_one_night_share_an_output_which_the_lock_gives_to_one_of_them(submit, template, tmp_path):
    option = f"output.path={tmp_path}/{{time}}"
    outputs = [
        submit.stamped_job(template, submit.scheduled_time(f"orthrus-nightly-{MINUTES}", now), [option])
        for now in (NIGHT, NIGHT + datetime.timedelta(hours=9))
    ]
    paths = [job["spec"]["entrypoint"].rpartition("output.path=")[2] for job in outputs]
    assert paths[0] == paths[1]
    quick = {"beat_s": 0.05, "stale_s": 0.6, "settle_s": 0.05}
    with (
        RunLock(f"{paths[0]}/_run", **quick),
        pytest.raises(ConfigError, match="another run is at work there"),
        RunLock(f"{paths[1]}/_run", **quick),
    ):
        pass


def test_a_job_made_by_hand_has_the_time_of_its_making(submit):
    now = NIGHT.replace(hour=13, minute=7, second=31)
    assert submit.scheduled_time("nightly-by-hand", now) == now.replace(second=0)
    assert submit.scheduled_time(f"orthrus-nightly-{MINUTES}", now) == NIGHT


def test_a_template_that_is_not_there_is_a_failure_with_the_answer_of_the_api(submit, api, capsys):
    assert submit.main(["--template", "missing"]) == 1
    assert "failed: HTTP 404" in capsys.readouterr().err
