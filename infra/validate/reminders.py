"""What a user has still to put in or to choose: no fault in itself, and not what he wants on a cluster."""

import json
import re
from collections.abc import Iterator
from typing import Any

from infra.validate.bundle import Bundle

PLACEHOLDERS = {
    "registry.example.com": "your registry",
    "my-bucket": "your bucket",
    "123456789012": "the role of components/eks-karpenter",
    "my-project": "the service account of components/gke",
    "00000000-0000-0000-0000-000000000000": "the client id of components/aks",
}


def reminders(things: list[dict[str, Any]]) -> list[str]:
    """Everything in the objects of an overlay that is still to be done."""
    bundle = Bundle(things)
    return [*_placeholders(things), *_unplaced_workers(bundle), *_same_prompts(bundle)]


def _placeholders(things: list[dict[str, Any]]) -> Iterator[str]:
    texts = {f"{thing['kind']}/{thing['metadata']['name']}": json.dumps(thing) for thing in things}
    for placeholder, meant in PLACEHOLDERS.items():
        holders = [name for name, text in texts.items() if placeholder in text]
        if holders:
            yield f"{placeholder} is a placeholder for {meant}, still in {', '.join(holders)}"


def _unplaced_workers(bundle: Bundle) -> Iterator[str]:
    """Names the first worker group alone: all take their nodes from one overlay."""
    for pod in bundle.pods:
        limits = [container.get("resources", {}).get("limits", {}) for container in pod.containers]
        is_placed = pod.spec.get("nodeSelector") or pod.spec.get("affinity")
        if pod.role == "worker" and any("nvidia.com/gpu" in limit for limit in limits) and not is_placed:
            yield (
                f"{pod.where}: no cloud is chosen: its pods take any node with a GPU, spot or not, and none "
                "with the taint of a spot pool; name one component of your cloud in the overlay"
            )
            return


def _same_prompts(bundle: Bundle) -> Iterator[str]:
    entrypoints = {job.where: job.spec.get("entrypoint", "") for job in bundle.jobs if job.schedule}
    for pod in bundle.pods:
        if pod.role == "scheduler":
            entrypoints[pod.where] = " ".join(map(str, pod.containers[0].get("args", [])))
    for where, entrypoint in entrypoints.items():
        if not re.search(r"input\.paths=\S*(\{(time|date|yesterday)\}|\$\()", entrypoint):
            yield f"{where}: input.paths has no date, so every run makes the same prompts again"
