"""Rules about Ray jobs: what KubeRay refuses beyond its schema, and what this project relies on."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml

from infra.validate.bundle import Bundle, JobSpec

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
LONGEST_NAME = 47  # of a RayJob: KubeRay makes others from it
SUFFIX = 13  # that a schedule puts behind it
DAY_S = 86400
STAMP = re.compile(r"\$\(date --utc --date '(\d+) hours? ago' \+%F\)")


def lifetimes_fit(bundle: Bundle) -> Iterator[str]:
    """What KubeRay's operator refuses about the end of a job, and numbers below zero."""
    for job in bundle.jobs:
        spec, strategy = job.spec, job.spec.get("deletionStrategy") or {}
        shuts_down = spec.get("shutdownAfterJobFinishes") is True
        if spec.get("ttlSecondsAfterFinished", 0) > 0 and not shuts_down:
            yield f"{job.where}: ttlSecondsAfterFinished needs shutdownAfterJobFinishes: true"
        if spec.get("suspend") and not shuts_down:
            yield f"{job.where}: suspend needs shutdownAfterJobFinishes: true"
        if strategy.get("deletionRules") and shuts_down:
            yield f"{job.where}: deletionRules and shutdownAfterJobFinishes exclude each other"
        if strategy.get("deletionRules") and (strategy.get("onSuccess") or strategy.get("onFailure")):
            yield f"{job.where}: deletionRules and onSuccess/onFailure exclude each other"
        if not shuts_down and not strategy:
            yield f"{job.where}: nothing removes its cluster; set shutdownAfterJobFinishes: true"
        for name, least in (
            ("activeDeadlineSeconds", 1),
            ("backoffLimit", 0),
            ("ttlSecondsAfterFinished", 0),
        ):
            if spec.get(name, least) < least:
                yield f"{job.where}: {name} must be >= {least}, got {spec[name]}"


def names_are_short(bundle: Bundle) -> Iterator[str]:
    """Names that KubeRay takes, what schedules put behind them included."""
    for kind in ("RayJob", "RayCronJob"):
        for name in bundle.named(kind):
            if len(name) + SUFFIX > LONGEST_NAME or not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
                yield (
                    f"{kind}/{name}: name must be lower-case letters, digits and dashes, "
                    f"at most {LONGEST_NAME - SUFFIX}"
                )


def clusters_are_closed(bundle: Bundle) -> Iterator[str]:
    """Token authentication, no ingress, a dashboard inside the cluster only."""
    for job in bundle.jobs:
        if (job.cluster.get("authOptions") or {}).get("mode") != "token":
            yield f"{job.where}: rayClusterSpec.authOptions.mode must be token"
        if job.head.get("enableIngress") or job.head.get("ingressOptions"):
            yield f"{job.where}: headGroupSpec must not have an ingress: the dashboard runs code"
        if job.head.get("serviceType", "ClusterIP") != "ClusterIP":
            yield f"{job.where}: headGroupSpec.serviceType must be ClusterIP, got {job.head['serviceType']}"


def versions_agree(bundle: Bundle) -> Iterator[str]:
    """The cluster's Ray is that of the lock file, which is that of the images."""
    match = re.search(r"^ray==(\S+)$", CONSTRAINTS.read_text(), re.M)
    locked = match[1] if match else "unknown"
    for job in bundle.jobs:
        if job.cluster.get("rayVersion") != locked:
            found = job.cluster.get("rayVersion")
            yield f"{job.where}: rayVersion must be {locked} as in infra/constraints.txt, got {found}"


def heads_have_no_work(bundle: Bundle) -> Iterator[str]:
    """The head runs the driver alone, whatever else asks for CPUs or GPUs."""
    for job in bundle.jobs:
        cpus = (job.head.get("rayStartParams") or {}).get("num-cpus")
        if cpus != "0":
            yield f"{job.where}: headGroupSpec.rayStartParams.num-cpus must be '0', got {cpus!r}"


def groups_can_scale(bundle: Bundle) -> Iterator[str]:
    """Bounds of worker groups are in order, and the autoscaler is there where they differ."""
    for job in bundle.jobs:
        for group in job.workers:
            bounds = [group.get("minReplicas", 0), group.get("replicas", 0), group.get("maxReplicas", 2**31)]
            if bounds != sorted(bounds):
                yield f"{job.where}: {group['groupName']}: must have minReplicas <= replicas <= maxReplicas"
            if bounds[0] != bounds[2] and not job.cluster.get("enableInTreeAutoscaling"):
                yield f"{job.where}: {group['groupName']}: needs enableInTreeAutoscaling to grow"
        pods = [job.head, *job.workers]
        policies = {((pod.get("template") or {}).get("spec") or {}).get("restartPolicy") for pod in pods}
        is_v2 = (job.cluster.get("autoscalerOptions") or {}).get("version") == "v2"
        if is_v2 and policies - {None, "Never"}:
            yield f"{job.where}: restartPolicy must be Never or absent with the autoscaler v2"


def environments_parse(bundle: Bundle) -> Iterator[str]:
    """runtimeEnvYAML is a mapping, and gives a stop longer than Ray's 3 s."""
    for job in bundle.jobs:
        try:
            environment = yaml.safe_load(job.spec.get("runtimeEnvYAML", "{}"))
        except yaml.YAMLError as error:
            yield f"{job.where}: runtimeEnvYAML is no yaml: {' '.join(str(error).split())}"
            continue
        if not isinstance(environment, dict):
            yield f"{job.where}: runtimeEnvYAML must be a mapping"
        elif stop_wait_s(job) <= 3:
            yield f"{job.where}: runtimeEnvYAML must set env_vars.RAY_JOB_STOP_WAIT_TIME_S above run.drain_s"


def stop_wait_s(job: JobSpec) -> float:
    """Seconds that Ray waits for the driver after a stop: 3 unless the runtime environment says otherwise."""
    try:
        environment = yaml.safe_load(job.spec.get("runtimeEnvYAML", "{}")) or {}
        return float((environment.get("env_vars") or {}).get("RAY_JOB_STOP_WAIT_TIME_S", 3))
    except (yaml.YAMLError, AttributeError, ValueError):  # `environments_parse` tells
        return 3.0


def schedules_and_stamps_fit(bundle: Bundle) -> Iterator[str]:
    """A RayCronJob's entrypoint gives every try of one night the same dates, and no other night these."""
    for job in bundle.jobs:
        if job.schedule is None:
            continue
        daily = re.fullmatch(r"0 (\d{1,2}) \* \* \*", job.schedule["schedule"])
        entrypoint = job.spec.get("entrypoint", "")
        hours = [int(found) % 24 for found in STAMP.findall(entrypoint)]
        stamped_output = re.search(rf"output\.path=\S*{STAMP.pattern}", entrypoint)
        if daily is None or stamped_output is None or set(hours) != {int(daily[1])}:
            yield (
                f"{job.where}: schedule must be `0 H * * *` and the entrypoint's output.path hold "
                "$(date --utc --date 'H hour ago' +%F) with the same H; H + 24 is the day before"
            )
        if job.schedule.get("timeZone") not in ("Etc/UTC", "UTC"):
            yield f"{job.where}: timeZone must be Etc/UTC, since the date is in UTC"
        if job.spec.get("activeDeadlineSeconds", DAY_S) >= DAY_S:
            yield f"{job.where}: activeDeadlineSeconds must be below {DAY_S}, or a late try has the next date"


JOB_RULES: tuple[Callable[[Bundle], Iterator[str]], ...] = (
    lifetimes_fit,
    names_are_short,
    clusters_are_closed,
    versions_agree,
    heads_have_no_work,
    groups_can_scale,
    environments_parse,
    schedules_and_stamps_fit,
)
