"""A Ray cluster of several nodes on this machine: `python tests/faults/cluster.py DIRECTORY`.

A head of one CPU and two workers of two CPUs; so actors of two CPUs live on the workers. DIRECTORY gets
a file cluster.json, which tells the address and the processes (raylets) of the workers; a file `add` there
lets one more worker join. The cluster ends when a file `stop` is there, or after `LIFE_S` seconds.
"""

import json
import os
import sys
import time
from pathlib import Path

LIFE_S = 400.0


def main(directory: Path) -> None:
    """Keep the cluster until it is to end."""
    from pipelines.generate.cluster import ENVIRONMENT

    os.environ.update(ENVIRONMENT)
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    workers = [cluster.add_node(num_cpus=2) for _ in range(2)]
    cluster.wait_for_nodes()
    _tell(directory, cluster.address, workers)
    deadline = time.monotonic() + LIFE_S
    while not (directory / "stop").exists() and time.monotonic() < deadline:
        if (directory / "add").exists():
            workers.append(cluster.add_node(num_cpus=2))
            (directory / "add").unlink()
            _tell(directory, cluster.address, workers)
        time.sleep(0.1)
    cluster.shutdown()


def _tell(directory: Path, address: str, workers: list) -> None:
    raylets = [node.all_processes["raylet"][0].process.pid for node in workers]
    temporary = directory / "cluster.tmp"
    temporary.write_text(json.dumps({"address": address, "raylets": raylets}))
    temporary.rename(directory / "cluster.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
