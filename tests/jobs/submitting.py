"""Jobs sent by `ray job submit` to a head that infra/local_head.py keeps."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PATIENCE_S = 200.0
RAY_JOB = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "job"]
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


@dataclass(frozen=True)
class Head:
    """A running head.

    Attributes:
        environment: what a client needs, as the env file says it.
        process: infra/local_head.py.
    """

    environment: Mapping[str, str]
    process: subprocess.Popen

    @property
    def directory(self) -> Path:
        """Where the head keeps its files."""
        return Path(self.environment["RAY_AUTH_TOKEN_PATH"]).parent

    def start(self, *arguments: str) -> subprocess.Popen:
        """Start `ray job ...` as an operator would in the project's root."""
        return subprocess.Popen(
            [*RAY_JOB, *arguments],
            cwd=ROOT,
            env={**os.environ, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, str]:
        """The same, to its end: exit code and what it printed."""
        return finish(self.start(*arguments))

    def submit(self, name: str, *job: str, env_vars: Mapping[str, str] | None = None, wait: bool = True):
        """Start `ray job submit` of jobs/generate.py with this project as the working directory."""
        options = ["--submission-id", name, "--working-dir", "."]
        options += ["--runtime-env-json", json.dumps({"env_vars": dict(env_vars or {})})]
        options += [] if wait else ["--no-wait"]
        return self.start("submit", *options, "--", "python", "jobs/generate.py", *job)

    def ask(self, path: str, token: str | None = None) -> Any:
        """A GET of the job server; raises HTTPError where it is refused."""
        known = Path(self.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
        request = urllib.request.Request(
            self.environment["RAY_API_SERVER_ADDRESS"] + path,
            headers={"Authorization": f"Bearer {known if token is None else token}"},
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    def job(self, name: str) -> dict[str, Any]:
        """What the job server knows of a job: status, message, driver_exit_code, ...

        One that it does not know yet is pending: `ray job submit` packs the working directory first.
        """
        try:
            return self.ask(f"/api/jobs/{name}")
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return {"status": "PENDING", "message": "not submitted yet"}

    def wait_until_ended(self, name: str) -> dict[str, Any]:
        """The job, once it has ended."""
        deadline = time.monotonic() + PATIENCE_S
        while (job := self.job(name))["status"] not in ENDED:
            assert time.monotonic() < deadline, self.run("logs", name)[1][-3000:]
            time.sleep(0.3)
        return job


def finish(process: subprocess.Popen) -> tuple[int, str]:
    """Exit code and output of a command that runs."""
    try:
        output, _ = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    return process.returncode, output


@contextmanager
def local_head(directory: Path, *, num_cpus: int = 4, life_s: float = 1200.0) -> Iterator[Head]:
    """Start a head; it ends with the block."""
    file = directory / "head.env"
    command = [sys.executable, str(ROOT / "infra/local_head.py"), "--env-file", str(file)]
    command += ["--num-cpus", str(num_cpus), "--life-s", str(life_s)]
    with open(directory / "log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        while not file.exists():
            assert process.poll() is None, (directory / "log").read_text()
            time.sleep(0.1)
        yield Head(dict(re.findall(r"export (\w+)=(\S+)", file.read_text())), process)
    finally:
        process.terminate()
        process.wait(60)
