"""The Ray session of a job, begun and ended beside the driver's other work."""

import importlib
import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from pipelines.generate.cluster import ENVIRONMENT, start_cluster
from pipelines.generate.config import RunConfig

ENGINE_ENVIRONMENT = {"env_vars": {"ORTHRUS_WORKER": "engine"}}  # Ray reuses a worker for its own kind only
WARM_UP_LIMIT_S = 120.0  # a head start that takes longer is not waited for


class RaySession:
    """Joins the cluster, or starts a local one, and leaves it; one that is there already stays.

    Both take seconds in which the driver can do better than wait: `begin` starts Ray in a thread, leaving the
    `with` block lets it end, and `close` waits for that. In a local cluster the workers that engines will
    have import their modules meanwhile.
    """

    def __init__(self, run: RunConfig, head_start: Callable[[], object] | None = None):
        """Set up, starting nothing.

        Args:
            head_start: what the workers of engines are to do as soon as a local cluster is there.
        """
        self._run = run
        self._head_start = head_start
        self._thread: threading.Thread | None = None
        self._has_started = threading.Event()
        self._is_over = threading.Event()
        self._fault: BaseException | None = None
        self._is_local = False
        self._warm_ups: list[Any] = []

    def begin(self) -> None:
        """Start Ray, unless it is there or was begun."""
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        import ray  # here, since two threads that import parts of one package may get in each other's way

        if self._has_started.is_set() or self._thread is not None:
            return
        if ray.is_initialized():
            self._is_local = True
            self._has_started.set()
            return
        self._thread = threading.Thread(target=self._live, name="ray-session", daemon=True)
        self._thread.start()

    def __enter__(self) -> bool:
        """Wait until Ray is there.

        Returns:
            Whether the cluster is this machine alone, so that it will not grow.
        Raises:
            ConfigError: the address does not answer.
        """
        self.begin()
        self._has_started.wait()
        if self._fault is not None:
            raise self._fault
        return self._is_local

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()

    def wait_for_workers(self) -> None:
        """Wait for the head start of the engines' workers; they would do the same work then."""
        import ray

        if self._warm_ups:
            ray.wait(self._warm_ups, num_returns=len(self._warm_ups), timeout=WARM_UP_LIMIT_S)

    def close(self) -> None:
        """Wait until Ray has ended, ending it first where that was not done."""
        self._is_over.set()
        if self._thread is not None:
            self._thread.join()

    @property
    def engine_environment(self) -> dict[str, Any] | None:
        """The `runtime_env` of engines, by which they get the workers that were warmed up."""
        return ENGINE_ENVIRONMENT if self._warm_ups else None

    def _live(self) -> None:
        """Start Ray and end it, in one thread: Linux ends Ray's processes with the thread that made them."""
        import ray

        try:
            self._is_local = start_cluster(self._run)
            if self._is_local and self._head_start is not None:
                self._warm_ups = self._warm_up(self._head_start)
        except BaseException as error:
            self._fault = error
        self._has_started.set()
        self._is_over.wait()
        self._warm_ups.clear()
        ray.shutdown()

    def _warm_up(self, head_start: Callable[[], object]) -> list[Any]:
        """Give as many workers as there will be engines their head start."""
        import ray

        cpus = self._run.cpus_per_actor
        task = ray.remote(_run).options(num_cpus=cpus, runtime_env=ENGINE_ENVIRONMENT, max_retries=0)
        return [task.remote(head_start) for _ in range(self._run.actors)]


def import_engine(with_compiler: bool) -> None:
    """The head start of a real engine's worker: import what it needs."""
    importlib.import_module("orthrus_core.models.loading")
    importlib.import_module("pipelines.generate.actor")
    if with_compiler:
        importlib.import_module("orthrus_core.decoding.compiler").get_compiler_ready()


def _run(head_start: Callable[[], object]) -> None:
    head_start()
