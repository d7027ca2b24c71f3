"""A Ray cluster of several nodes on this machine: `python tests/faults/cluster.py DIRECTORY [NODES]`.

NODES is a json {"head": {...}, "nodes": [{...}, ...]} of arguments of Ray's `Cluster.add_node`; without it a
head of one CPU and two workers of two CPUs, so that actors of two CPUs live on the workers. As on machines of
their own, every worker has its own directory for Ray's files and its own cache of models, and a name.
DIRECTORY gets a file cluster.json, which tells addresses, the token's file and, by name, the processes
(raylets) and directories of the workers; a file `add` there, a json of arguments or empty, lets one more
worker join. The cluster ends when a file `stop` is there, or after `LIFE_S` seconds.
"""

import json
import os
import secrets
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LIFE_S = 400.0
USUAL = {"head": {"num_cpus": 1}, "nodes": [{"num_cpus": 2}, {"num_cpus": 2}]}


def main(directory: Path, layout: dict[str, Any]) -> None:
    """Keep the cluster until it is to end."""
    from pipelines.cluster.resources import ENVIRONMENT

    root = Path(tempfile.mkdtemp(prefix="ray-nodes-"))  # short: sockets below it have long names
    token = root / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    os.environ.update(ENVIRONMENT)
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_TMPDIR": str(root)}
    os.environ.pop("RAY_AUTH_TOKEN", None)
    try:
        _keep(directory, layout, root)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _keep(directory: Path, layout: dict[str, Any], root: Path) -> None:
    from ray.cluster_utils import Cluster

    head = {"include_dashboard": False, "dashboard_agent_listen_port": _free_port(), **layout["head"]}
    if head["include_dashboard"]:
        head |= {"dashboard_host": "127.0.0.1", "dashboard_port": _free_port()}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    workers: dict[str, Any] = {}
    for arguments in layout["nodes"]:
        _add(cluster, workers, root, arguments)
    cluster.wait_for_nodes()
    _tell(directory, cluster, workers, root)
    deadline = time.monotonic() + LIFE_S
    while not (directory / "stop").exists() and time.monotonic() < deadline:
        if (directory / "add").exists():
            _add(cluster, workers, root, json.loads((directory / "add").read_text() or '{"num_cpus": 2}'))
            (directory / "add").unlink()
            _tell(directory, cluster, workers, root)
        time.sleep(0.1)
    cluster.shutdown()


def _free_port() -> int:
    """Other Ray sessions on the machine have the usual ones."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _add(cluster: Any, workers: dict[str, Any], root: Path, arguments: dict[str, Any]) -> None:
    """Start one more worker, with files of its own."""
    from tests.faults.engines import NODE_NAME

    name = f"node{len(workers)}"
    environment = {NODE_NAME: name, "ORTHRUS_CACHE": str(root / name / "cache")}
    workers[name] = cluster.add_node(temp_dir=str(root / name), env_vars=environment, **arguments)


def _tell(directory: Path, cluster: Any, workers: dict[str, Any], root: Path) -> None:
    raylets = {name: node.all_processes["raylet"][0].process.pid for name, node in workers.items()}
    known = {
        "address": cluster.address,
        "dashboard": cluster.webui_url,
        "token": str(root / "token"),
        "raylets": list(raylets.values()),
        "nodes": {name: {"raylet": pid, "files": str(root / name)} for name, pid in raylets.items()},
    }
    temporary = directory / "cluster.tmp"
    temporary.write_text(json.dumps(known))
    temporary.rename(directory / "cluster.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]) if len(sys.argv) > 2 else USUAL)
