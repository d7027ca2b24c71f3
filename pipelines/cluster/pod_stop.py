"""What a pod of a Ray cluster does before it ends.

`python -m pipelines.cluster.pod_stop worker|head --limit-s 330`

Kubernetes runs it (preStop) and waits for it, at most terminationGracePeriodSeconds.
A worker's node is drained: Ray Data sends it no further unit, and what its engines have is finished and
committed elsewhere. On the head the drivers of running jobs are told to drain; the workers, which mostly end
at the same time, then only wait: on drained nodes alone nothing could be committed.
"""

import argparse
import logging
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from pipelines.command.job import LOG_FORMAT

logger = logging.getLogger(__name__)

METRICS_URL = "http://127.0.0.1:8080/metrics"  # KubeRay's metrics-export-port
DASHBOARD_URL = "http://127.0.0.1:8265"
STOPPING = b"orthrus_head_is_stopping"  # a key in the cluster's own store
NOTICE_S = 8.0  # that the head gets to leave its note, when all pods end at once
LOOK_S = 15.0  # above the 10 s after which Ray offers new figures
SEEN_S = 10.0  # in which KubeRay sees that a job has failed, and makes a new cluster for the next try
QUIET_LOOKS = 2  # after the engine's last row its unit is still to be written


def main(arguments: list[str] | None = None) -> int:
    """End one pod's part well; returns 0 even if that failed: the pod ends all the same."""
    parser = argparse.ArgumentParser(description="Let units in progress finish before a pod ends.")
    parser.add_argument("role", choices=["worker", "head"])
    parser.add_argument("--limit-s", type=float, default=330.0, help="seconds after which it gives up")
    parser.add_argument("--dashboard", default=DASHBOARD_URL, help="of the head, where jobs are stopped")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, stream=sys.stderr)
    try:
        if options.role == "worker":
            stop_worker(options.limit_s)
        else:
            stop_head(options.limit_s, options.dashboard)
    except Exception as error:
        logger.warning("units in progress may be lost and made again: %s: %s", type(error).__name__, error)
    return 0


def stop_worker(limit_s: float) -> None:
    """Drain this node, unless the head is ending too, and wait until its engines have nothing left."""
    deadline = time.monotonic() + limit_s
    time.sleep(NOTICE_S)
    import ray

    ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    if not _head_is_stopping():
        drain_node(ray.get_runtime_context().get_node_id(), limit_s)
    ray.shutdown()
    wait_until_idle(read_metrics, deadline)


def drain_node(node_id: str, limit_s: float) -> None:
    """Tell Ray that a node will be gone after `limit_s`; nothing new is put on it."""
    command = ["ray", "drain-node", "--node-id", node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    command += ["--reason-message", "its pod ends", "--deadline-remaining-seconds", str(int(limit_s))]
    subprocess.run(command, check=True, capture_output=True, text=True)


def wait_until_idle(
    read: Callable[[], str | None], deadline: float, *, look_s: float = LOOK_S, clock: Any = time
) -> bool:
    """Look at the node's metrics until its engines have been idle for `QUIET_LOOKS` looks.

    Args:
        read: the metrics as text; None when the node does not answer any more.
        deadline: on `clock.monotonic()`.
    Returns:
        Whether they were; false when the deadline came first.
    """
    quiet = 0
    while quiet < QUIET_LOOKS:
        text = read()
        if text is None:
            return True
        busy = busy_rows(text)
        quiet = 0 if busy else quiet + 1
        if clock.monotonic() + look_s > deadline:
            return quiet >= QUIET_LOOKS
        if quiet < QUIET_LOOKS:
            logger.info("waiting: engines of this node have %g rows and units in progress", busy)
            clock.sleep(look_s)
    return True


def busy_rows(metrics: str) -> float:
    """Rows in slots, rows and units that wait, of all engines in a text in Prometheus' format."""
    busy = 0.0
    for line in metrics.splitlines():
        name, _, rest = line.partition("{")
        waits = name in ("ray_orthrus_queue_rows", "ray_orthrus_queue_units")
        if waits or (name == "ray_orthrus_slots" and 'state="busy"' in rest):
            busy += float(line.rsplit("}", 1)[1].split()[0])
    return busy


def read_metrics(url: str = METRICS_URL) -> str | None:
    """This node's metrics; None when nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read().decode()
    except (urllib.error.URLError, OSError):
        return None


def stop_head(limit_s: float, dashboard: str) -> None:
    """Let the drivers of the cluster's running jobs drain, and wait until they have ended."""
    deadline = time.monotonic() + limit_s
    import ray
    from ray.experimental.internal_kv import _internal_kv_put
    from ray.job_submission import JobSubmissionClient

    ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    _internal_kv_put(STOPPING, b"1")
    if stop_jobs(JobSubmissionClient(dashboard), deadline):
        time.sleep(SEEN_S)


def stop_jobs(
    client: Any, deadline: float, *, look_s: float = 1.0, send: Callable[[int, int], None] = os.kill
) -> bool:
    """Send every running job's driver the signal to drain, and wait.

    A job that is stopped through Ray counts as ended on purpose, and KubeRay does not try it again; one whose
    driver ends with an exit code has failed, and gets a new cluster, where it goes on. So Ray's own way is
    taken only for a job whose driver has not joined the cluster yet.

    Args:
        client: a `JobSubmissionClient`.
        send: sends a process a signal.
    Returns:
        Whether jobs ran and all of them have ended before the deadline.
    """
    running = [job for job in client.list_jobs() if job.submission_id and _runs(job.status)]
    for job in running:
        logger.info("stopping job %s", job.submission_id)
        if job.driver_info is None:
            client.stop_job(job.submission_id)
        else:
            send(int(job.driver_info.pid), signal.SIGTERM)
    while any(_runs(client.get_job_status(job.submission_id)) for job in running):
        if time.monotonic() + look_s > deadline:
            return False
        time.sleep(look_s)
    return bool(running)


def _runs(status: Any) -> bool:
    return not status.is_terminal()


def _head_is_stopping() -> bool:
    from ray.experimental.internal_kv import _internal_kv_exists

    return bool(_internal_kv_exists(STOPPING))


if __name__ == "__main__":
    sys.exit(main())
