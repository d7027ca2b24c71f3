"""Create a RayJob from a suspended one, its options stamped with the time it was scheduled for.

Runs in a pod of the CronJob: `python submit.py --template orthrus-generate --set output.path=URL/{time} ...`.
The name of the RayJob holds the time too, so that a second try of the same pod, or a second pod for the same
time, creates nothing. Standard library alone. Exit codes: 0 created or already there, 1 the API refused.
"""

import argparse
import datetime
import json
import os
import shlex
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

IDENTITY = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def main(arguments: list[str] | None = None) -> int:
    """Create the RayJob; returns the exit code."""
    parser = argparse.ArgumentParser(description="Create a RayJob from a suspended one.")
    parser.add_argument("--template", required=True, help="name of the suspended RayJob")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="option of the job; {time}, {date}, {yesterday} in it are those it is scheduled for, in UTC",
    )
    options = parser.parse_args(arguments)
    time = scheduled_time(os.environ["JOB_NAME"], datetime.datetime.now(datetime.UTC))
    try:
        template = request("GET", f"/{options.template}")
        job = stamped_job(template, time, options.set)
        job["metadata"]["ownerReferences"] = owner(os.environ["JOB_NAME"], os.environ["JOB_UID"])
        request("POST", "", job)
    except urllib.error.HTTPError as error:
        if error.code != 409:
            print(f"failed: HTTP {error.code}: {error.read().decode()[:500]}", file=sys.stderr)
            return 1
        print("already there: a RayJob for this time", file=sys.stderr)
    else:
        print(f"created RayJob {job['metadata']['name']}: {job['spec']['entrypoint']}")
    return 0


def scheduled_time(job_name: str, now: datetime.datetime) -> datetime.datetime:
    """The time a Job of a CronJob was scheduled for: its name ends with the minutes since 1970.

    A Job that somebody created by hand has no such name; for it that is now, to the minute.
    """
    ending = job_name.rpartition("-")[2]
    if ending.isdigit() and len(ending) == 8:
        return datetime.datetime.fromtimestamp(int(ending) * 60, datetime.UTC)
    return now.replace(second=0, microsecond=0)


def stamped_job(template: dict[str, Any], time: datetime.datetime, options: list[str]) -> dict[str, Any]:
    """A RayJob with the spec of another, not suspended, and options for its entrypoint.

    Args:
        template: a RayJob as the API returns it.
        time: in UTC; the name holds it to the minute, options where they ask for it.
    """
    metadata = template["metadata"]
    spec = {name: value for name, value in template["spec"].items() if name not in ("suspend", "jobId")}
    for option in options:
        spec["entrypoint"] += f" --set {shlex.quote(stamped(option, time))}"
    return {
        "apiVersion": template["apiVersion"],
        "kind": template["kind"],
        "metadata": {
            "name": f"{metadata['name']}-{time:%Y%m%d%H%M}",
            "namespace": metadata["namespace"],
            "labels": metadata.get("labels", {}),
        },
        "spec": spec,
    }


def stamped(option: str, time: datetime.datetime) -> str:
    """An option with {time}, {date} and {yesterday} filled in."""
    stamps = {
        "{time}": f"{time:%Y-%m-%dT%H%MZ}",
        "{date}": f"{time:%F}",
        "{yesterday}": f"{time - datetime.timedelta(days=1):%F}",
    }
    for name, text in stamps.items():
        option = option.replace(name, text)
    return option


def owner(job_name: str, job_uid: str) -> list[dict[str, Any]]:
    """The Job whose removal (the CronJob's history limits) removes the RayJob too."""
    return [{"apiVersion": "batch/v1", "kind": "Job", "name": job_name, "uid": job_uid, "controller": False}]


def request(method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Ask the Kubernetes API about RayJobs of the pod's own namespace."""
    namespace = (IDENTITY / "namespace").read_text().strip()
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    scheme = os.environ.get("KUBERNETES_SERVICE_SCHEME", "https")
    url = f"{scheme}://{host}:{port}/apis/ray.io/v1/namespaces/{namespace}/rayjobs{path}"
    headers = {"Authorization": f"Bearer {(IDENTITY / 'token').read_text().strip()}"}
    data = None if body is None else json.dumps(body).encode()
    if data is not None:
        headers["Content-Type"] = "application/json"
    asked = urllib.request.Request(url, data=data, headers=headers, method=method)
    context = ssl.create_default_context(cafile=str(IDENTITY / "ca.crt")) if scheme == "https" else None
    with urllib.request.urlopen(asked, timeout=30, context=context) as answer:
        return json.loads(answer.read())


if __name__ == "__main__":
    sys.exit(main())
