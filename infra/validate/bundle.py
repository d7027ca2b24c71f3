"""The objects of an overlay, and ways to find things in them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

Tree = dict[str, Any]
UNITS = {
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "m": 1e-3,
}


@dataclass(frozen=True)
class JobSpec:
    """A RayJob's spec, wherever it stands: in a RayJob, or as the template of a RayCronJob."""

    where: str
    spec: Tree
    schedule: Tree | None = None

    @property
    def cluster(self) -> Tree:
        """Its rayClusterSpec."""
        return self.spec.get("rayClusterSpec") or {}

    @property
    def head(self) -> Tree:
        """Its head group."""
        return self.cluster.get("headGroupSpec") or {}

    @property
    def workers(self) -> list[Tree]:
        """Its worker groups."""
        return self.cluster.get("workerGroupSpecs") or []


@dataclass(frozen=True)
class Pod:
    """A pod template.

    Attributes:
        role: head, worker, submitter or scheduler.
        group: a head's or worker's group spec, with rayStartParams.
        job: what it belongs to, if that is a Ray job.
    """

    where: str
    role: str
    template: Tree
    group: Tree
    job: JobSpec | None

    @property
    def spec(self) -> Tree:
        """Its pod spec."""
        return self.template.get("spec") or {}

    @property
    def labels(self) -> dict[str, str]:
        """Labels of its template."""
        return (self.template.get("metadata") or {}).get("labels") or {}

    @property
    def containers(self) -> list[Tree]:
        """Its containers, those that run before it among them."""
        return [*self.spec.get("initContainers", []), *self.spec.get("containers", [])]


class Bundle:
    """All objects of a rendered overlay."""

    def __init__(self, things: list[Tree]):
        """Args: things are the objects as parsed from yaml."""
        self.things = things

    def named(self, kind: str) -> dict[str, Tree]:
        """Objects of a kind by name."""
        return {thing["metadata"]["name"]: thing for thing in self.things if thing.get("kind") == kind}

    @cached_property
    def jobs(self) -> list[JobSpec]:
        """Every RayJob's spec, templates of RayCronJobs included."""
        found = [JobSpec(f"RayJob/{name}", job["spec"]) for name, job in self.named("RayJob").items()]
        for name, cron in self.named("RayCronJob").items():
            found.append(JobSpec(f"RayCronJob/{name}", cron["spec"].get("jobTemplate") or {}, cron["spec"]))
        return found

    @cached_property
    def pods(self) -> list[Pod]:
        """Every pod template."""
        pods = [pod for job in self.jobs for pod in _ray_pods(job)]
        for name, cron in self.named("CronJob").items():
            template = cron["spec"]["jobTemplate"]["spec"]["template"]
            pods.append(Pod(f"CronJob/{name}", "scheduler", template, {}, None))
        return pods


def _ray_pods(job: JobSpec) -> Iterator[Pod]:
    if job.head:
        yield Pod(f"{job.where}: head", "head", job.head.get("template") or {}, job.head, job)
    for group in job.workers:
        where = f"{job.where}: {group.get('groupName')}"
        yield Pod(where, "worker", group.get("template") or {}, group, job)
    if "submitterPodTemplate" in job.spec:
        yield Pod(f"{job.where}: submitter", "submitter", job.spec["submitterPodTemplate"], {}, job)


def quantity(text: str | int | float) -> float:
    """A Kubernetes quantity as a number: 1536Mi is 1610612736.

    Raises:
        ValueError: it is none.
    """
    match = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(text))
    if match is None or (match[2] and match[2] not in UNITS):
        raise ValueError(f"{text!r} is no quantity")
    return float(match[1]) * UNITS.get(match[2], 1)
