"""Who runs the workers: this process alone, or Ray Train."""

import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

import torch

from orthrus_core.errors import ConfigError, OrthrusError
from orthrus_core.training.parallel import Mode, Parallel
from pipelines.cluster.board import Board, open_board
from pipelines.train.allocator import MALLOC_LIMITS
from pipelines.train.config import TrainConfig
from pipelines.train.progress import TrainProgress
from pipelines.train.snapshots import Snapshots
from pipelines.train.worker import Work, run_worker

RAY_TRAIN = {
    "RAY_TRAIN_V2_ENABLED": "1",
    # how often the controller looks at the workers; Ray's 2 s are a wait at the end of every run
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
}
WAIT_S = 0.5
RANK_0 = "rank-0"


def run_here(work: Work, progress: TrainProgress) -> dict[str, Any]:
    """Train in this process."""
    config = work.config
    if config.scaling.use_gpu and not torch.cuda.is_available():
        raise ConfigError("scaling.use_gpu must be false on a machine without a CUDA device, got true")
    device = torch.device("cuda" if config.scaling.use_gpu else "cpu")
    seen: dict[str, Any] = {}
    progress.watch(lambda: dict(seen))
    own_lines = logging.getLogger("orthrus_core.training.trainer")
    level = own_lines.level
    own_lines.setLevel(logging.WARNING)  # `progress` shows the same figures
    try:
        return run_worker(work, device=device, parallel=Parallel(), post=seen.update)
    finally:
        own_lines.setLevel(level)


def run_on_ray(work: Work, progress: TrainProgress) -> dict[str, Any]:
    """Train by workers of Ray Train; a session is there.

    Raises:
        OrthrusError: more workers were lost than the config allows.
    """
    from ray.train import TrainingFailedError

    for name, value in RAY_TRAIN.items():
        os.environ.setdefault(name, value)
    board = open_board()
    progress.watch(lambda: board.look().get("actors", {}).get(RANK_0, {}))
    storage = tempfile.mkdtemp(prefix="orthrus-ray-train-")  # Ray's own notes; checkpoints are ours
    try:
        return _in_thread(lambda: _trainer(work, board, storage).fit()).return_value
    except TrainingFailedError as error:
        raise _lost_workers(error, work) from error
    finally:
        shutil.rmtree(storage, ignore_errors=True)


def _trainer(work: Work, board: Board, storage: str) -> Any:
    from ray.train import FailureConfig, RunConfig
    from ray.train import ScalingConfig as RayScaling
    from ray.train.torch import TorchConfig, TorchTrainer

    scaling = work.config.scaling
    return TorchTrainer(
        # no train_loop_config: Ray shows that one, and the storage section may hold credentials
        lambda: _ray_worker(work, board),  # type: ignore[arg-type]
        torch_config=TorchConfig(backend="nccl" if scaling.use_gpu else "gloo"),
        scaling_config=RayScaling(
            num_workers=scaling.workers,
            use_gpu=scaling.use_gpu,
            resources_per_worker=worker_resources(work.config),
        ),
        run_config=RunConfig(  # type: ignore[call-arg]
            name="orthrus-train",
            storage_path=storage,
            failure_config=FailureConfig(max_failures=scaling.max_failures),
            worker_runtime_env={"env_vars": worker_environment(work.config)},
        ),
    )


def _ray_worker(work: Work, board: Board) -> dict[str, Any]:
    from ray.train import get_context
    from ray.train.torch import get_device

    mode: Mode = work.config.scaling.mode if get_context().get_world_size() > 1 else "none"
    device = get_device()
    return run_worker(
        work,
        device=device,
        parallel=Parallel(mode, device),
        post=lambda figures: board.post(RANK_0, figures),
    )


def worker_resources(config: TrainConfig) -> dict[str, float]:
    """Ray resources of one worker."""
    gpu = {"GPU": 1.0} if config.scaling.use_gpu else {}
    return {"CPU": float(config.num_threads), **gpu, **config.scaling.resources_per_worker}


def worker_environment(config: TrainConfig) -> dict[str, str]:
    """Variables that a worker process starts with: threads and allocator."""
    return {**MALLOC_LIMITS, "OMP_NUM_THREADS": str(config.num_threads), "TOKENIZERS_PARALLELISM": "false"}


def _in_thread(call: Callable[[], Any]) -> Any:
    """Call in a thread and wait, so that signals reach the job's own handlers and not Ray Train's."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="ray-train", daemon=True).start()
    while True:
        try:
            return future.result(timeout=WAIT_S)
        except FutureTimeoutError:
            if future.done():
                raise


def _lost_workers(error: Exception, work: Work) -> OrthrusError:
    """What to tell of a run whose workers were lost once too often."""
    output = work.output
    last = Snapshots(output.run_url, keep=work.config.output.keep_checkpoints).list()
    kept = f"last good checkpoint: {last[-1].url}" if last else "there was no checkpoint yet"
    reason = next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
    return OrthrusError(
        f"workers failed or were lost more than scaling.max_failures={work.config.scaling.max_failures} "
        f"times ({reason.strip():.300}); {kept}; the same command goes on from there"
    )
