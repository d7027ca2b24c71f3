"""A data set over two nodes, one drained: `python -m tests.pipelines.cluster.drained_node` tells of it."""

import json
import logging
import threading
import time
from typing import Any

import ray
from ray.cluster_utils import Cluster

from pipelines.cluster.pod_stop import drain_node

SMALL = {"object_store_memory": 80 * 2**20}


class Unit:
    """Takes half a second, and says where and when it was done."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One row."""
        time.sleep(0.5)
        return {**batch, "node": [ray.get_runtime_context().get_node_id()], "time": [time.time()]}


def main() -> dict[str, Any]:
    """Run 60 units; the node `leaving` is told to go at its first one."""
    cluster = Cluster(True, head_node_args={"num_cpus": 0, "include_dashboard": False, **SMALL})
    try:
        _, leaving = (cluster.add_node(num_cpus=2, **SMALL) for _ in range(2))
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        units = ray.data.range(60, override_num_blocks=60).map_batches(
            Unit,
            batch_size=None,
            num_cpus=0.5,
            compute=ray.data.ActorPoolStrategy(size=2, max_tasks_in_flight_per_actor=2),
        )
        return watch(units, leaving.node_id)
    finally:
        ray.shutdown()
        cluster.shutdown()


def watch(units: ray.data.Dataset, leaving: str) -> dict[str, Any]:
    """Take all units, and drain a node at its first one: {seen, drained_at, leaving}."""
    seen: list[dict[str, Any]] = []
    drained_at: list[float] = []

    def drain() -> None:
        drain_node(leaving, 60)
        drained_at.append(time.time())

    thread = threading.Thread(target=drain)
    for unit in units.iter_rows():
        seen.append({name: value.item() if hasattr(value, "item") else value for name, value in unit.items()})
        if unit["node"] == leaving and not thread.ident:
            thread.start()
    thread.join()
    return {"seen": seen, "drained_at": drained_at[0], "leaving": leaving}


if __name__ == "__main__":
    print(json.dumps(main()))
