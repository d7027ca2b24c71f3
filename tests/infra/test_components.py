"""Components: clouds, the model cache, the namespace, Kueue; and what a user has still to fill in."""

import copy
import shutil

import pytest

from infra.validate.__main__ import main
from infra.validate.check import faults
from infra.validate.kustomize import build, by_kubectl
from infra.validate.reminders import reminders
from tests.infra.manifests import GENERATE, KUBERAY, find, objects, put


def worker_group(things):
    return find(things, GENERATE)["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]


def test_without_a_cloud_workers_go_to_any_node_with_a_gpu_and_grow_from_nothing(rendered):
    group = worker_group(rendered["gpu-spot"])
    assert "nodeSelector" not in group["template"]["spec"]
    assert [toleration["key"] for toleration in group["template"]["spec"]["tolerations"]] == [
        "nvidia.com/gpu"
    ]
    assert (group["minReplicas"], group["replicas"], group["maxReplicas"]) == (0, 0, 8)


@pytest.fixture
def project(tmp_path):
    """A copy of infra/ for edits that a user makes."""
    shutil.copytree(KUBERAY, tmp_path / "infra/kuberay")
    shutil.copytree(KUBERAY.parent / "grafana", tmp_path / "infra/grafana")
    return tmp_path / "infra/kuberay"


def choose(project, component):
    """Uncomment a component in the overlay, as its comments say."""
    file = project / "overlays/gpu-spot/kustomization.yaml"
    assert f"# - ../../components/{component}" in file.read_text()
    file.write_text(
        file.read_text().replace(f"# - ../../components/{component}", f"- ../../components/{component}")
    )


CLOUDS = {
    "eks-karpenter": ({"karpenter.sh/capacity-type": "spot"}, "eks.amazonaws.com/role-arn"),
    "gke": ({"cloud.google.com/gke-spot": "true"}, "iam.gke.io/gcp-service-account"),
    "aks": ({"kubernetes.azure.com/scalesetpriority": "spot"}, "azure.workload.identity/client-id"),
}


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_cloud_brings_its_spot_nodes_and_its_identity_and_no_other_clouds(cloud, project, schemas):
    choose(project, cloud)
    things = build(project / "schedules/raycronjob")
    assert faults(things, schemas) == []
    selector, annotation = CLOUDS[cloud]
    spec = worker_group(things)["template"]["spec"]
    assert spec["nodeSelector"] == selector
    [(label, value)] = selector.items()
    wanted = {"key": label, "operator": "Equal", "value": value, "effect": "NoSchedule"}
    assert wanted in spec["tolerations"]
    assert list(find(things, "ServiceAccount/orthrus")["metadata"]["annotations"]) == [annotation]
    assert find(things, "RayCronJob/orthrus-nightly")["spec"]["jobTemplate"]["rayClusterSpec"][
        "workerGroupSpecs"
    ] == [worker_group(things)]


def test_models_outlive_pods_on_a_claim_that_head_and_workers_mount(project, schemas):
    choose(project, "model-cache")
    things = build(project / "overlays/gpu-spot")
    assert faults(things, schemas) == []
    assert find(things, "PersistentVolumeClaim/orthrus-cache")["spec"]["accessModes"] == ["ReadWriteMany"]
    cluster = find(things, "RayJob/orthrus-train")["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        [cache] = [volume for volume in group["template"]["spec"]["volumes"] if volume["name"] == "cache"]
        assert cache == {"name": "cache", "persistentVolumeClaim": {"claimName": "orthrus-cache"}}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
@pytest.mark.parametrize("component", [*CLOUDS, "model-cache"])
def test_kubectl_makes_the_same_of_a_component(component, project):
    choose(project, component)
    directory = project / "overlays/gpu-spot"
    assert objects(build(directory)) == objects(by_kubectl(directory))


def test_another_namespace_is_one_edit(project, schemas):
    holders = [path for path in project.rglob("*.yaml") if "namespace: orthrus" in path.read_text()]
    assert holders == [project / "components/namespace/kustomization.yaml"]
    holders[0].write_text(holders[0].read_text().replace("namespace: orthrus", "namespace: batch"))
    for directory in ("overlays/demo-cpu", "schedules/cronjob"):
        things = build(project / directory)
        assert faults(things, schemas) == []
        assert {thing["metadata"].get("namespace", "batch") for thing in things} == {"batch"}
        assert find(things, "Namespace/batch")
        if shutil.which("kubectl"):
            assert objects(things) == objects(by_kubectl(project / directory))


def test_placeholders_and_open_choices_are_named(rendered):
    found = "\n".join(reminders(rendered["cronjob"]))
    assert (
        "registry.example.com is a placeholder for your registry, still in RayJob/orthrus-generate, RayJob/"
        in found
    )
    assert "my-bucket is a placeholder for your bucket, still in ConfigMap/orthrus-config" in found
    assert "no cloud is chosen" in found


def test_nothing_is_left_to_say_when_all_is_filled_in(project):
    choose(project, "eks-karpenter")
    own = {"registry.example.com": "ghcr.io/me", "my-bucket": "texts", "123456789012": "210987654321"}
    for file in project.rglob("*.yaml"):
        text = file.read_text()
        for placeholder, value in own.items():
            text = text.replace(placeholder, value)
        file.write_text(text)
    for directory in ("overlays/demo-cpu", "schedules/cronjob", "schedules/raycronjob"):
        assert reminders(build(project / directory)) == []


@pytest.mark.parametrize(
    ("cloud", "placeholder"), [("eks-karpenter", "the role"), ("gke", "account"), ("aks", "client")]
)
def test_a_cloud_that_still_has_its_example_identity_is_named(cloud, placeholder, project):
    choose(project, cloud)
    [found] = [line for line in reminders(build(project / "overlays/gpu-spot")) if "ServiceAccount/" in line]
    assert placeholder in found


def test_schedules_take_the_prompts_of_their_night(rendered):
    for name in ("cronjob", "raycronjob"):
        assert not any("same prompts" in line for line in reminders(rendered[name]))


def test_a_schedule_that_makes_the_same_prompts_every_night_is_named(rendered):
    things = copy.deepcopy([*rendered["cronjob"], find(rendered["raycronjob"], "RayCronJob/orthrus-nightly")])
    args = "spec.jobTemplate.spec.template.spec.containers.0.args"
    put(
        things,
        "CronJob/orthrus-nightly",
        args,
        ["--set=input.paths=s3://b/all", "--set=output.path=s3://b/{time}"],
    )
    entrypoint = "python /app/jobs/generate.py --set output.path=s3://b/$(date +%F)"
    put(things, "RayCronJob/orthrus-nightly", "spec.jobTemplate.entrypoint", entrypoint)
    same = [line.split(":")[0] for line in reminders(things) if "same prompts" in line]
    assert same == ["RayCronJob/orthrus-nightly", "CronJob/orthrus-nightly"]


def test_reminders_do_not_fail_the_check(project, capsys):
    assert main([str(project / "overlays/demo-cpu")]) == 0
    assert "  warning: my-bucket is a placeholder" in capsys.readouterr().err


def test_the_component_for_kueue_puts_jobs_into_a_queue(tmp_path, schemas):
    (tmp_path / "kustomization.yaml").write_text(
        f"resources: [{KUBERAY / 'overlays/demo-cpu'}]\ncomponents: [{KUBERAY / 'components/kueue'}]\n"
    )
    things = build(tmp_path)
    for name in (GENERATE, "RayJob/orthrus-train"):
        assert find(things, name)["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "orthrus"}
    assert faults(things, schemas) == []
