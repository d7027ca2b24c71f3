"""The Ray cluster of a job: joining or starting it, and what it has to offer."""

import logging
import math
import os
import socket
import tempfile
from pathlib import Path
from typing import Any

from orthrus_core.errors import ConfigError
from pipelines.cluster.config import RunConfig
from pipelines.cluster.noise import ENDED_ON_PURPOSE

logger = logging.getLogger(__name__)

STAGE_CPUS = 0.25  # of reading and writing; small, so that a machine with 2 CPUs runs all stages at once
CONNECT_S = 2.0
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Ray's 15 starves a local run beside anything else on the machine.
    "RAY_worker_niceness": "0",
    # Ray ends idle workers after 1 s where actors outnumber CPUs; a new one costs 7 CPU seconds of imports.
    "RAY_idle_worker_killing_time_threshold_ms": "600000",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ENDED_ON_PURPOSE,
}


def resolve_device(asked: str) -> str:
    """The device that actors use: "auto" is cuda where the cluster has a GPU."""
    import ray

    if asked != "auto":
        return asked
    return "cuda" if ray.cluster_resources().get("GPU", 0) >= 1 else "cpu"


def gpus_per_actor(run: RunConfig, device: str, ranks: int) -> float:
    """GPUs that Ray reserves for an actor, whose model so many ranks share."""
    if run.gpus_per_actor is not None:
        return run.gpus_per_actor
    return float(ranks) if device == "cuda" else 0.0


def device_share(run: RunConfig, device: str, ranks: int) -> float:
    """A rank's part of the memory of its device, which others on the same machine share."""
    if device == "cuda":
        return min(1.0, gpus_per_actor(run, device, ranks) or 1.0)
    beside = int((os.cpu_count() or 1) // run.cpus_per_actor)
    return 1.0 / max(1, min(run.most_actors, beside)) / ranks


def check_gpus(run: RunConfig, device: str, ranks: int, *, is_local: bool) -> None:
    """Refuse a run that a local machine cannot hold, or no node of a cluster; a cluster may still grow.

    Raises:
        ConfigError: fewer GPUs here than the actors need, or on every node than one actor's ranks.
    """
    import ray

    each = gpus_per_actor(run, device, ranks)
    if device == "cuda" and ranks > 1 and each != ranks:
        raise ConfigError(
            f"run.gpus_per_actor must be {ranks}, model.tensor_parallel, or left out, got {each:g}"
        )
    wanted, found = run.actors * each, ray.cluster_resources().get("GPU", 0)
    most = max((node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"]), default=0)
    if ranks > 1 and 0 < most < each:
        raise ConfigError(
            f"model.tensor_parallel={ranks} needs so many GPUs on one node, the largest has {most:g}"
        )
    if found >= wanted:
        return
    fault = f"run.actors={run.actors} on {device} need {wanted:g} GPUs, Ray sees {found:g}"
    if is_local:
        raise ConfigError(fault)
    logger.warning("%s; waiting for the cluster to grow", fault)


def start_cluster(run: RunConfig) -> bool:
    """Join or start a cluster; whether it is local.

    Raises:
        ConfigError: the address does not answer.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)  # it says so when a thread starts it
    try:
        return _join_or_start(run)
    except (ConnectionError, ValueError) as error:
        raise ConfigError(f"{_named_by(run)}: {' '.join(str(error).split())}") from error


def _join_or_start(run: RunConfig) -> bool:
    """The running cluster, as plain `ray.init()`, or where there is none a new one; whether it is local."""
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    address = run.ray_address or os.environ.get("RAY_ADDRESS") or _started_cluster()
    if address is not None and address != "local":
        ray.init(address=address, **quiet)
        return False
    needed = math.ceil(run.most_actors * run.cpus_per_actor + 2 * STAGE_CPUS)
    num_cpus = max(os.cpu_count() or 1, needed)
    ray.init(
        address="local",
        include_dashboard=False,
        num_cpus=num_cpus,
        _metrics_export_port=run.metrics_port,
        **quiet,
    )
    return True


def _named_by(run: RunConfig) -> str:
    """Who said which cluster to join, for error texts."""
    if run.ray_address:
        return f"run.ray_address {run.ray_address}"
    if address := os.environ.get("RAY_ADDRESS"):
        return f"RAY_ADDRESS {address}"
    return "Ray on this machine"


def _started_cluster() -> str | None:
    """Address of the cluster that `ray start` began on this machine, from the file that it leaves.

    Ray's own "auto" would do but for two things: it also joins the private cluster of any other program here,
    which has no CPU to spare and ends with that program, and it waits for minutes for one that was killed.

    Returns:
        None where there is no such file, or nobody listens at its address.
    """
    file = Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir())) / "ray" / "ray_current_cluster"
    try:
        address = file.read_text().strip()
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except (OSError, ValueError):
        return None
    return address
