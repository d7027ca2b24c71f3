"""A job, and reports of made-up units: a plain one and one with everything that may be ugly."""

import pytest
from rich.console import Console

from pipelines.generate.report.figures import RunTimes, run_report
from pipelines.generate.write.sums import RunSums
from tests.pipelines.conftest import job_of

UNIT = {
    "rows": 4,
    "errors": 1,
    "completion_tokens": 30,
    "prompt_tokens": 50,
    "step_tokens": 27,
    "steps": 9,
    "forwards": 18,
    "finish_stop": 3,
    "finish_error": 1,
}
GROUP = {"rows": 4, "errors": 1, "completion_tokens": 30, "steps": 9, "step_tokens": 27}
NASTY = "<script>alert('x')</script> & $\\alpha_{1}$ | 名前 " + "long " * 30


def facts(number: int = 0, *, audit: dict | None = None, value: str = "math") -> dict:
    """What one unit says of itself; units take 10 s each, one after the other."""
    return {
        "counts": UNIT,
        "session": 1000.0,
        "began": 1000.0 + 10 * number,
        "at": 1010.0 + 10 * number,
        "positions": {"drafted": [4, 4], "accepted": [3, 1]},
        "lengths": {"16": GROUP},
        "groups": {"domain": {value: GROUP}},
        "errors": {
            "prompt is null": {"count": 1, "examples": [{"id": f"r{number}", "error": "prompt is null"}]}
        },
        "audit": audit or {},
    }


def summary(actor: str, busy_s: float, ready_s: float, **more) -> dict:
    """What the driver hears of a unit."""
    engine = {"busy_s": busy_s}
    return facts(**more) | {"actor": actor, "load_s": 2.0, "ready_s": ready_s, "engine": engine, "rows": 4}


def sums_of(*units: dict) -> RunSums:
    """Units added up."""
    sums = RunSums()
    for one in units:
        sums.add(one)
    return sums


def shown(renderable) -> str:
    """What a wide terminal shows."""
    console = Console(width=400)
    with console.capture() as screen:
        console.print(renderable)
    return screen.get()


@pytest.fixture
def job(tree):
    return job_of(tree)


@pytest.fixture
def manifest(job):
    return job.manifest({"exactness": "exact", "mode": "consensus", "device": "cpu", "dtype": "float32"})


@pytest.fixture
def report(job, manifest):
    times = RunTimes(wall_s=20.0, ray_s=3.0)
    for one in (summary("a", 4.0, 5.0), summary("a", 8.0, 10.0), summary("b", 6.0, 10.0)):
        times.add(one)
    return run_report(job, sums_of(*(facts(n) for n in range(4))), times, manifest)


@pytest.fixture
def ugly(job, manifest):
    """A run that failed, with hostile text everywhere and an audit that found differences."""
    wrong = {"id": NASTY, "sample": 0, "shard": 0, "unit": 1, "first_token": None, "written": None}
    wrong |= {"plain_ar": 7, "reason": "token"}
    audit = {"selected": 3, "skipped": 1, "compared": 2, "identical": 1, "mismatches": [wrong], "speed": []}
    one = facts(audit=audit, value=NASTY)
    one["errors"] = {NASTY: {"count": 3, "examples": [{"id": NASTY, "error": NASTY}]}}
    one["positions"] = {}
    return run_report(job, sums_of(one), RunTimes(), manifest, status="failed", exit_code=1, reason=NASTY)
