"""The Ray session of a job, begun and ended beside the driver's other work."""

import os
import threading

from pipelines.cluster.config import RunConfig
from pipelines.cluster.resources import ENVIRONMENT, start_cluster


class RaySession:
    """Joins the cluster, or starts a local one, and leaves it; one that is there already stays.

    The start takes seconds in which the driver can do better than wait: `begin` starts Ray in a thread. The
    end is waited for: Ray ends a process, exit code 1, in which anything touches it while it shuts down.
    """

    def __init__(self, run: RunConfig):
        """Set up, starting nothing."""
        self._run = run
        self._thread: threading.Thread | None = None
        self._has_started = threading.Event()
        self._is_over = threading.Event()
        self._fault: BaseException | None = None
        self._is_local = False

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

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait until Ray has ended, ending it first where that was not done."""
        self._is_over.set()
        if self._thread is not None:
            self._thread.join()

    def _live(self) -> None:
        """Start Ray and end it, in one thread: Linux ends Ray's processes with the thread that made them."""
        import ray

        try:
            self._is_local = start_cluster(self._run)
        except BaseException as error:
            self._fault = error
        self._has_started.set()
        self._is_over.wait()
        ray.shutdown()
