"""Rules about pods that no schema can say."""

from collections.abc import Callable, Iterator

from infra.validate.bundle import Bundle, Pod, Tree, quantity

HARDENING = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True}


def names_resolve(bundle: Bundle) -> Iterator[str]:
    """Volumes, ConfigMaps, Secrets, claims, accounts that a pod names are there, unless they are optional."""
    accounts = bundle.named("ServiceAccount")
    for pod in bundle.pods:
        volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
        mounts = [mount for container in pod.containers for mount in container.get("volumeMounts", [])]
        if pod.role == "head" and pod.job is not None:
            mounts += (pod.job.cluster.get("autoscalerOptions") or {}).get("volumeMounts", [])
        for mount in mounts:
            if mount["name"] not in volumes:
                yield f"{pod.where}: mounts the volume {mount['name']}, which the pod does not have"
        for kind, name in references(pod):
            if name not in bundle.named(kind):
                yield f"{pod.where}: needs the {kind} {name}, which is not there"
        account = pod.spec.get("serviceAccountName")
        if account is not None and account not in accounts:
            yield f"{pod.where}: needs the ServiceAccount {account}, which is not there"


def references(pod: Pod) -> Iterator[tuple[str, str]]:
    """Kind and name of every ConfigMap, Secret and claim that a pod cannot do without."""
    sources = {"configMapRef": "ConfigMap", "configMapKeyRef": "ConfigMap", "configMap": "ConfigMap"}
    sources |= {"secretRef": "Secret", "secretKeyRef": "Secret", "secret": "Secret"}
    sources |= {"persistentVolumeClaim": "PersistentVolumeClaim"}
    keys = ("name", "secretName", "claimName")
    places = list(pod.spec.get("volumes", []))
    for container in pod.containers:
        places += container.get("envFrom", [])
        places += [entry["valueFrom"] for entry in container.get("env", []) if "valueFrom" in entry]
    for place in places:
        for key, kind in sources.items():
            if key in place and not place[key].get("optional"):
                yield kind, next(place[key][name] for name in keys if name in place[key])


def devices_are_asked_for_whole(bundle: Bundle) -> Iterator[str]:
    """Limits of GPUs and other devices equal their requests: Kubernetes refuses anything else."""
    for pod in bundle.pods:
        for container in pod.containers:
            resources = container.get("resources") or {}
            limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
            for name in {name for name in {**limits, **requests} if "/" in name}:
                if str(limits.get(name)) != str(requests.get(name)):
                    yield (
                        f"{pod.where}: {container['name']}: limits and requests of {name} must be equal, "
                        f"got {limits.get(name)} and {requests.get(name)}"
                    )


def pods_are_locked_down(bundle: Bundle) -> Iterator[str]:
    """No root, no privileges, nothing writable but volumes, the default seccomp profile."""
    for pod in bundle.pods:
        whole = pod.spec.get("securityContext") or {}
        if whole.get("runAsNonRoot") is not True or not whole.get("runAsUser"):
            yield f"{pod.where}: securityContext must have runAsNonRoot: true and runAsUser above 0"
        if (whole.get("seccompProfile") or {}).get("type") != "RuntimeDefault":
            yield f"{pod.where}: securityContext.seccompProfile.type must be RuntimeDefault"
        for key in ("hostNetwork", "hostPID", "hostIPC"):
            if pod.spec.get(key):
                yield f"{pod.where}: {key} must not be set"
        contexts = {c["name"]: c.get("securityContext") or {} for c in pod.containers}
        if pod.role == "head" and pod.job is not None and pod.job.cluster.get("enableInTreeAutoscaling"):
            options = pod.job.cluster.get("autoscalerOptions") or {}
            contexts["autoscaler"] = options.get("securityContext") or {}
        for name, context in contexts.items():
            yield from (f"{pod.where}: {name}: {fault}" for fault in _soft_spots(context))


def _soft_spots(context: Tree) -> Iterator[str]:
    for key, value in HARDENING.items():
        if context.get(key) is not value:
            yield f"securityContext.{key} must be {str(value).lower()}, got {context.get(key)}"
    if (context.get("capabilities") or {}).get("drop") != ["ALL"]:
        yield "securityContext.capabilities.drop must be [ALL]"


def workers_have_no_token(bundle: Bundle) -> Iterator[str]:
    """A token of the Kubernetes API is only where something asks that API: autoscaler and scheduler."""
    for pod in bundle.pods:
        if pod.role in ("worker", "submitter") and pod.spec.get("automountServiceAccountToken") is not False:
            yield f"{pod.where}: automountServiceAccountToken must be false"


def object_store_fits(bundle: Bundle) -> Iterator[str]:
    """The object store fits in the pod's shared memory, and that in its memory limit."""
    for pod in _ray_pods(bundle):
        volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
        container = pod.spec["containers"][0]
        mounts = {mount["mountPath"]: mount["name"] for mount in container.get("volumeMounts", [])}
        volume = volumes.get(mounts.get("/dev/shm", ""), {}).get("emptyDir") or {}
        if volume.get("medium") != "Memory" or "sizeLimit" not in volume:
            yield f"{pod.where}: /dev/shm must be an emptyDir of medium Memory with a sizeLimit"
            continue
        shared = quantity(volume["sizeLimit"])
        limit = quantity(((container.get("resources") or {}).get("limits") or {}).get("memory", 0))
        store = quantity((pod.group.get("rayStartParams") or {}).get("object-store-memory", "0"))
        if not 0 < store < shared < limit:
            yield (
                f"{pod.where}: must have object-store-memory < /dev/shm < memory limit, "
                f"got {store:g}, {shared:g}, {limit:g}"
            )


def ray_pods_are_probed(bundle: Bundle) -> Iterator[str]:
    """Ray containers have both probes and a preStop that runs `pipelines.cluster.pod_stop` in their role."""
    for pod in _ray_pods(bundle):
        container = pod.spec["containers"][0]
        for probe in ("readinessProbe", "livenessProbe"):
            if not container.get(probe):
                yield f"{pod.where}: {container['name']} has no {probe}"
        command = _pre_stop(container)
        if command[:4] != ["python", "-m", "pipelines.cluster.pod_stop", pod.role]:
            wanted = f"python -m pipelines.cluster.pod_stop {pod.role}"
            yield f"{pod.where}: preStop must run {wanted}, got {command}"


def pods_wait_for_their_units(bundle: Bundle) -> Iterator[str]:
    """A pod's grace period is longer than what its preStop may take."""
    for pod in _ray_pods(bundle):
        grace = pod.spec.get("terminationGracePeriodSeconds", 30)
        limit = pre_stop_limit_s(pod.spec["containers"][0])
        if grace < limit + 15:
            yield f"{pod.where}: terminationGracePeriodSeconds must be >= {limit + 15:g}, got {grace}"


def pre_stop_limit_s(container: Tree) -> float:
    """Seconds that a container's preStop waits at most."""
    command = _pre_stop(container)
    return float(command[command.index("--limit-s") + 1]) if "--limit-s" in command else 330.0


def _pre_stop(container: Tree) -> list[str]:
    return (((container.get("lifecycle") or {}).get("preStop") or {}).get("exec") or {}).get("command") or []


def _ray_pods(bundle: Bundle) -> list[Pod]:
    return [pod for pod in bundle.pods if pod.role in ("head", "worker") and pod.spec.get("containers")]


def policies_reach_every_pod(bundle: Bundle) -> Iterator[str]:
    """NetworkPolicy and PodMonitor select the pods of Ray jobs; metrics are on the port they name."""
    pods = [pod for pod in bundle.pods if pod.role != "scheduler"]
    policies = [policy["spec"] for policy in bundle.named("NetworkPolicy").values()]
    for pod in pods:
        if not any(_selects(policy["podSelector"], pod) for policy in policies):
            yield f"{pod.where}: no NetworkPolicy selects its labels {pod.labels}"
    for name, monitor in bundle.named("PodMonitor").items():
        ports = {endpoint.get("port") for endpoint in monitor["spec"]["podMetricsEndpoints"]}
        for pod in _ray_pods(bundle):
            offered = {port.get("name") for port in pod.spec["containers"][0].get("ports", [])}
            if not _selects(monitor["spec"]["selector"], pod) or not ports <= offered:
                yield f"PodMonitor/{name}: does not find the port {', '.join(map(str, ports))} of {pod.where}"


def _selects(selector: Tree, pod: Pod) -> bool:
    return (selector.get("matchLabels") or {}).items() <= pod.labels.items()


def namespaces_agree(bundle: Bundle) -> Iterator[str]:
    """Everything is in the namespace that the bundle brings, RoleBindings' subjects too."""
    wanted = set(bundle.named("Namespace"))
    for thing in bundle.things:
        if thing["kind"] == "Namespace":
            continue
        metadata = thing["metadata"]
        for place in (metadata, *thing.get("subjects", [])):
            if place.get("namespace") not in wanted:
                yield (
                    f"{thing['kind']}/{metadata['name']}: namespace must be {', '.join(wanted)}, got "
                    f"{place.get('namespace')}: the component `namespace` comes last in its kustomization"
                )


def roles_resolve(bundle: Bundle) -> Iterator[str]:
    """A RoleBinding's role and service accounts are there."""
    for name, binding in bundle.named("RoleBinding").items():
        wanted = [(binding["roleRef"]["kind"], binding["roleRef"]["name"])]
        wanted += [(subject["kind"], subject["name"]) for subject in binding.get("subjects", [])]
        for kind, other in wanted:
            if other not in bundle.named(kind):
                yield f"RoleBinding/{name}: names the {kind} {other}, which is not there"


POD_RULES: tuple[Callable[[Bundle], Iterator[str]], ...] = (
    names_resolve,
    devices_are_asked_for_whole,
    pods_are_locked_down,
    workers_have_no_token,
    object_store_fits,
    ray_pods_are_probed,
    pods_wait_for_their_units,
    policies_reach_every_pod,
    namespaces_agree,
    roles_resolve,
)
