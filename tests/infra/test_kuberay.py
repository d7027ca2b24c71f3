"""The manifests hold against schemas and rules, and a copy that is broken in one place does not."""

import copy
import shutil
import subprocess

import pytest

from infra.validate.__main__ import overlays
from infra.validate.bundle import quantity
from infra.validate.check import faults
from infra.validate.kustomize import by_kubectl
from infra.validate.schemas import HERE, Schemas
from tests.infra.manifests import GENERATE, GONE, KUBERAY, find, objects, put

WORKERS = "spec.rayClusterSpec.workerGroupSpecs.0"
WORKER = f"{WORKERS}.template.spec"
HEAD = "spec.rayClusterSpec.headGroupSpec.template.spec"


def test_there_are_two_overlays_and_two_schedules(rendered):
    assert sorted(rendered) == ["cronjob", "demo-cpu", "gpu-spot", "raycronjob"]


@pytest.mark.parametrize("name", ["demo-cpu", "gpu-spot", "cronjob", "raycronjob"])
def test_nothing_is_wrong_with_what_a_user_would_apply(name, rendered, schemas):
    assert faults(rendered[name], schemas) == []


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
@pytest.mark.parametrize("path", overlays(), ids=lambda path: path.name)
def test_the_renderer_of_the_checks_makes_what_kubectl_makes(path, rendered):
    assert objects(rendered[path.name]) == objects(by_kubectl(path))


CONFIG = ("ConfigMap/orthrus-config", "data")
RULES = {"limits": {"cpu": "6", "memory": "48Gi", "nvidia.com/gpu": "1"}}
BROKEN = [
    # schemas: KubeRay's
    (GENERATE, "spec.entrypont", "python x", "entrypont"),
    (GENERATE, f"{WORKERS}.maxReplica", 3, "maxReplica"),
    (GENERATE, f"{WORKER}.containers.0.imagePulPolicy", "Always", "imagePulPolicy"),
    (GENERATE, "spec.backoffLimit", "three", "backoffLimit: 'three' is not of type 'integer'"),
    (GENERATE, "spec.rayClusterSpec.authOptions.mode", "tokens", "'tokens' is not one of"),
    (GENERATE, f"{HEAD}.containers", GONE, "'containers' is a required property"),
    (GENERATE, "metadata.lables", {}, "lables"),
    (GENERATE, "apiVersion", "ray.io/v2", "no schema of ray.io/v2 RayJob"),
    ("RayCronJob/orthrus-nightly", "spec.concurrencyPolicy", "Forbid", "concurrencyPolicy"),
    ("RayCronJob/orthrus-nightly", "spec.jobTemplate.rayClusterSpec.headGroup", {}, "headGroup"),
    # schemas: Kubernetes' own, and the PodMonitor
    ("NetworkPolicy/orthrus", "spec.ingres", [], "ingres"),
    ("NetworkPolicy/orthrus", "spec.ingress.1.ports.0.port", {"a": 1}, "ports.0.port"),
    ("ServiceAccount/orthrus", "automountToken", False, "automountToken"),
    ("ConfigMap/orthrus-config", "data.generate.yaml", 5, "5 is not of type"),
    ("Namespace/orthrus", "spec.finaliser", [], "finaliser"),
    ("CronJob/orthrus-nightly", "spec.concurrency", "Forbid", "concurrency"),
    ("CronJob/orthrus-nightly", "spec.jobTemplate.spec.template.spec.containers.0.envs", [], "envs"),
    ("Role/orthrus-scheduler", "rules.0.verb", ["get"], "verb"),
    ("RoleBinding/orthrus-scheduler", "roleRef.kinds", "Role", "kinds"),
    ("PodMonitor/orthrus", "spec.podMetricsEndpoints.0.intervall", "15s", "intervall"),
    # the end of a job
    (GENERATE, "spec.shutdownAfterJobFinishes", False, "ttlSecondsAfterFinished needs shutdownAfter"),
    (GENERATE, "spec.shutdownAfterJobFinishes", False, "suspend needs shutdownAfter"),
    (
        GENERATE,
        "spec.deletionStrategy",
        {"deletionRules": [{"policy": "DeleteCluster", "condition": {"jobStatus": "FAILED"}}]},
        "deletionRules and shutdownAfterJobFinishes exclude",
    ),
    (
        GENERATE,
        "spec.deletionStrategy",
        {"deletionRules": [{"policy": "DeleteSelf", "condition": {}}], "onFailure": {"policy": "DeleteSelf"}},
        "deletionRules and onSuccess/onFailure exclude",
    ),
    (GENERATE, "spec.activeDeadlineSeconds", 0, "activeDeadlineSeconds must be >= 1, got 0"),
    (GENERATE, "spec.backoffLimit", -1, "-1"),
    # the cluster
    (GENERATE, "spec.rayClusterSpec.authOptions.mode", "disabled", "authOptions.mode must be token"),
    (
        GENERATE,
        "spec.rayClusterSpec.headGroupSpec.serviceType",
        "LoadBalancer",
        "serviceType must be ClusterIP",
    ),
    (GENERATE, "spec.rayClusterSpec.headGroupSpec.enableIngress", True, "must not have an ingress"),
    (GENERATE, "spec.rayClusterSpec.headGroupSpec.rayStartParams.num-cpus", "2", "num-cpus must be '0'"),
    (GENERATE, "spec.rayClusterSpec.rayVersion", "2.59.0", "rayVersion must be"),
    (GENERATE, f"{WORKERS}.minReplicas", 9, "minReplicas <= replicas <= maxReplicas"),
    (GENERATE, "spec.rayClusterSpec.enableInTreeAutoscaling", False, "needs enableInTreeAutoscaling"),
    (GENERATE, f"{WORKER}.restartPolicy", "Always", "restartPolicy must be Never"),
    (GENERATE, "spec.runtimeEnvYAML", "env_vars: {", "runtimeEnvYAML is no yaml"),
    (GENERATE, "spec.runtimeEnvYAML", "{}", "RAY_JOB_STOP_WAIT_TIME_S above"),
    # schedules
    ("RayCronJob/orthrus-nightly", "spec.schedule", "0 2 * * *", "with the same H"),
    (
        "RayCronJob/orthrus-nightly",
        "spec.jobTemplate.entrypoint",
        "python /app/jobs/generate.py --config /etc/orthrus/generate.yaml "
        "--set input.paths=s3://b/$(date --utc --date '1 hour ago' +%F) --set output.path=s3://b/run",
        "output.path hold",
    ),
    ("RayCronJob/orthrus-nightly", "spec.timeZone", "Europe/Berlin", "timeZone must be Etc/UTC"),
    ("RayCronJob/orthrus-nightly", "spec.jobTemplate.activeDeadlineSeconds", 90000, "must be below 86400"),
    # pods
    (
        GENERATE,
        f"{WORKER}.containers.0.resources",
        RULES,
        "limits and requests of nvidia.com/gpu must be equal",
    ),
    (GENERATE, f"{WORKER}.containers.0.volumeMounts.0.name", "temp", "mounts the volume temp"),
    (GENERATE, f"{HEAD}.volumes.0.name", "temp", "mounts the volume tmp"),
    (GENERATE, f"{HEAD}.volumes.4.configMap.name", "other", "needs the ConfigMap other"),
    (GENERATE, f"{HEAD}.containers.0.envFrom.0.secretRef.optional", False, "needs the Secret orthrus-s3"),
    (GENERATE, f"{WORKER}.serviceAccountName", "nobody", "needs the ServiceAccount nobody"),
    (GENERATE, f"{WORKER}.automountServiceAccountToken", True, "automountServiceAccountToken must be false"),
    (GENERATE, f"{WORKER}.securityContext.runAsNonRoot", GONE, "runAsNonRoot: true"),
    (GENERATE, f"{WORKER}.securityContext.runAsUser", 0, "runAsUser above 0"),
    (GENERATE, f"{HEAD}.securityContext.seccompProfile", GONE, "seccompProfile.type must be RuntimeDefault"),
    (GENERATE, f"{HEAD}.hostNetwork", True, "hostNetwork must not be set"),
    (
        GENERATE,
        f"{HEAD}.containers.0.securityContext.readOnlyRootFilesystem",
        False,
        "readOnlyRootFilesystem must be true",
    ),
    (GENERATE, f"{HEAD}.containers.0.securityContext.capabilities", GONE, "drop must be [ALL]"),
    (GENERATE, "spec.rayClusterSpec.autoscalerOptions.securityContext", GONE, "autoscaler: securityContext"),
    (
        GENERATE,
        f"{WORKERS}.rayStartParams.object-store-memory",
        "99999999999",
        "object-store-memory < /dev/shm",
    ),
    (GENERATE, f"{WORKER}.volumes.1.emptyDir", {}, "/dev/shm must be an emptyDir of medium Memory"),
    (GENERATE, f"{WORKER}.containers.0.livenessProbe", GONE, "has no livenessProbe"),
    (GENERATE, f"{WORKER}.containers.0.lifecycle", GONE, "preStop must run"),
    (GENERATE, f"{WORKER}.terminationGracePeriodSeconds", 30, "terminationGracePeriodSeconds must be >= 345"),
    (
        GENERATE,
        f"{WORKER}.containers.0.lifecycle.preStop.exec.command",
        ["python", "-m", "pipelines.cluster.pod_stop", "worker", "--limit-s", "60"],
        "preStop's --limit-s must be >= run.drain_s + 10 = 310, got 60",
    ),
    (GENERATE, f"{WORKERS}.template.metadata.labels", {}, "no NetworkPolicy selects"),
    (GENERATE, f"{WORKER}.containers.0.ports", [], "does not find the port metrics"),
    ("RoleBinding/orthrus-scheduler", "roleRef.name", "other", "names the Role other"),
    ("PodMonitor/orthrus", "metadata.namespace", GONE, "namespace must be orthrus, got None"),
    ("RoleBinding/orthrus-scheduler", "subjects.0.namespace", "other", "must be orthrus, got other"),
    (
        GENERATE,
        f"{WORKER}.volumes.3",
        {"name": "cache", "persistentVolumeClaim": {"claimName": "orthrus-cache"}},
        "needs the PersistentVolumeClaim orthrus-cache",
    ),
    # images, commands
    (GENERATE, f"{HEAD}.containers.0.image", "registry.example.com/orthrus:1", "must end with -cpu or -cuda"),
    (
        GENERATE,
        f"{WORKER}.containers.0.image",
        "registry.example.com/o:1-cpu",
        "must be -cuda where there is",
    ),
    (GENERATE, "spec.entrypoint", "python /app/jobs/generat.py --config x", "generat.py is not in the image"),
    (GENERATE, "spec.entrypoint", "python /app/tests/conftest.py", "is not in the image cpu"),
    (GENERATE, "spec.entrypoint", "bash run.sh", "command must be python"),
    (
        GENERATE,
        "spec.entrypoint",
        "python /app/jobs/generate.py --config /etc/orthrus/generate.yaml --fast",
        "unrecognized arguments: --fast",
    ),
    (
        GENERATE,
        f"{WORKER}.containers.0.lifecycle.preStop.exec.command",
        ["python", "-m", "pipelines.cluster.pod_stop", "worker", "--wait", "3"],
        "unrecognized arguments: --wait 3",
    ),
    ("CronJob/orthrus-nightly", "spec.jobTemplate.spec.template.spec.containers.0.args", [], "--template"),
    (GENERATE, "spec.suspend", False, "must be a RayJob with suspend: true"),
    (
        "CronJob/orthrus-nightly",
        "spec.jobTemplate.spec.template.spec.containers.0.args",
        ["--template=orthrus-generate", "--set=output.pth=s3://b/{time}"],
        "output.pth is not a known key",
    ),
    # configs
    (
        GENERATE,
        "spec.entrypoint",
        "python /app/jobs/generate.py --config /etc/orthrus/x.yaml",
        "brings /etc/orth",
    ),
    (
        GENERATE,
        "spec.entrypoint",
        "python /app/jobs/generate.py --config /etc/orthrus/generate.yaml --set run.actor=2",
        "run.actor is not a known key, did you mean actors?",
    ),
    (*CONFIG, ("generate.yaml", "device: cuda", "device: auto"), "model.device must be cpu or cuda"),
    (
        *CONFIG,
        ("generate.yaml", "actors: 8", "actors: 9"),
        "run.actors=9 do not fit: full grown worker groups hold 8",
    ),
    (*CONFIG, ("generate.yaml", "drain_s: 300", "drain_s: 600"), "must be >= run.drain_s + 10 = 610"),
    (
        *CONFIG,
        ("generate.yaml", "path: s3://my-bucket/orthrus/run", "path: /data/run"),
        "output.path /data/run",
    ),
    (
        *CONFIG,
        ("generate.yaml", "s3://my-bucket/orthrus/prompts", "/app/nowhere"),
        "input.paths /app/nowhere",
    ),
    (*CONFIG, ("generate.yaml", "token_budget: 192", "token_budget: -1"), "decode.token_budget must be"),
    (*CONFIG, ("train.yaml", "kind: head", "kind: tail"), "kind must be"),
    (
        *CONFIG,
        ("train.yaml", "s3://my-bucket/models/backbone", "/app/pipelines/demo/nothing"),
        "backbone /app/pip",
    ),
]


def overlay_with(name, rendered):
    """The richest overlay that has an object."""
    for overlay in ("gpu-spot", "cronjob", "raycronjob"):
        if any(f"{thing['kind']}/{thing['metadata']['name']}" == name for thing in rendered[overlay]):
            return overlay
    raise AssertionError(name)


@pytest.mark.parametrize(("name", "path", "value", "said"), BROKEN)
def test_a_copy_broken_in_one_place_is_refused(name, path, value, said, rendered, schemas):
    overlay = "cronjob" if "with suspend: true" in said else overlay_with(name, rendered)
    things = copy.deepcopy(rendered[overlay])
    if isinstance(value, tuple):
        file, old, new = value
        data = find(things, name)["data"]
        assert old in data[file]
        data[file] = data[file].replace(old, new)
    elif path == "data.generate.yaml":
        find(things, name)["data"]["generate.yaml"] = value
    elif path.startswith("spec.finaliser"):
        find(things, name)["spec"] = {"finaliser": value}
    else:
        put(things, name, path, value)
    found = faults(things, schemas)
    assert any(said in fault for fault in found), found


def test_a_job_may_be_started_and_its_options_set(rendered, schemas):
    things = copy.deepcopy(rendered["gpu-spot"])
    put(things, GENERATE, "spec.suspend", False)
    place = find(things, GENERATE)["spec"]
    place["entrypoint"] += " --set run.actors=4 --only-failed"
    assert faults(things, schemas) == []


def test_crds_of_an_operator_come_from_a_directory(rendered, tmp_path):
    shutil.copy(HERE / "ray.io_rayjobs.json.gz", tmp_path)
    found = faults(rendered["raycronjob"], Schemas(tmp_path))
    assert found == ["RayCronJob/orthrus-nightly: no schema of ray.io/v1 RayCronJob"]


def test_a_directory_without_crds_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no CRD of RayJob"):
        Schemas(tmp_path)


def test_the_dashboard_is_let_in_for_the_operator_alone(rendered):
    rules = find(rendered["gpu-spot"], "NetworkPolicy/orthrus")["spec"]["ingress"]
    [peers] = [rule["from"] for rule in rules if {"protocol": "TCP", "port": 8265} in rule.get("ports", [])]
    assert peers == [
        {
            "namespaceSelector": {},
            "podSelector": {"matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}},
        }
    ]


@pytest.mark.parametrize(
    ("begins", "night"),
    [
        ("22 01:00:00", "22"),
        ("22 01:07:31", "22"),
        ("22 23:59", "22"),
        ("23 00:59", "22"),
        ("23 01:00", "23"),
    ],
)
def test_tries_of_one_night_have_one_date(begins, night, rendered):
    entrypoint = find(rendered["raycronjob"], "RayCronJob/orthrus-nightly")["spec"]["jobTemplate"][
        "entrypoint"
    ]
    command = "echo " + entrypoint.replace("--date '", f"--date '2026-11-{begins} UTC ")
    said = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout.split()
    assert f"input.paths=s3://my-bucket/orthrus/prompts/2026-11-{night}" in said
    assert f"output.path=s3://my-bucket/orthrus/nightly/2026-11-{night}" in said


def test_the_grafana_dashboard_comes_as_a_config_map(rendered):
    dashboard = find(rendered["gpu-spot"], "ConfigMap/orthrus-dashboard")
    assert dashboard["data"]["orthrus.json"] == (KUBERAY.parent / "grafana/orthrus.json").read_text()
    assert dashboard["metadata"]["labels"] == {"grafana_dashboard": "1"}


@pytest.mark.parametrize(("text", "number"), [("1536Mi", 1536 * 2**20), ("2", 2), (3, 3), ("500m", 0.5)])
def test_quantities_are_read(text, number):
    assert quantity(text) == number
