"""What the jobs ask of Ray Data beyond its plain use, and why; what they ask of Ray is in `resources`.

A unit is one read task, one block, one batch and one output file. That is what most of this is for:

- `UnitSource`, a data source of our own: `read_parquet` packs small files into one block.
- `override_num_blocks`: without it Ray cuts units into smaller blocks.
- `batch_size=None`: a batch is a block. A number would do for blocks of just that many rows, but Ray bundles
  smaller ones, as the last of each shard is, and then cuts batches across units.
- `map_batches_internal` (a developer API) for the engines: `map_batches` refuses GPUs without a batch size.
- `target_max_block_size`: a unit stays one block, however large.
- `Executions`: Ray has no call that ends a dataset from another thread than the one that iterates over it.
"""

import contextlib
import logging
from typing import Any, ClassVar

from pipelines.cluster.config import RunConfig

WHOLE_BLOCKS: dict[str, Any] = {"batch_size": None, "batch_format": "pyarrow"}


def set_options(context: Any, run: RunConfig) -> None:
    """Set a `DataContext` up for a job, in place."""
    for handler in logging.getLogger("ray.data").handlers:
        if handler.get_name() == "console":  # the file in Ray's log directory keeps everything
            handler.setLevel(logging.WARNING)
            handler.addFilter(_is_not_about_progress_bars)
    context.target_max_block_size = None
    context.execution_no_progress_timeout_s = -1  # a unit of long texts may take longer than half an hour
    context.enable_progress_bars = False
    context.retried_map_errors = True  # storage that fails for a moment; bad rows never raise
    context.max_map_retries = run.retries
    # A pool whose actors hold all the units they may is full; Ray's 1.75 is above what it can ever reach.
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0
    context.custom_execution_callback_classes = [Executions]


def _is_not_about_progress_bars(record: logging.LogRecord) -> bool:
    return "Progress bars disabled" not in record.getMessage()


class Executions:
    """Knows what runs the datasets of this process; an `ExecutionCallback`, which Ray makes for each."""

    running: ClassVar[set[Any]] = set()

    def before_execution_starts(self, executor: Any) -> None:
        """Ignore one that cannot be ended yet."""

    def on_execution_step(self, executor: Any) -> None:
        """Keep one that runs."""
        self.running.add(executor)

    def after_execution_succeeds(self, executor: Any) -> None:
        """Forget one that has ended."""
        self.running.discard(executor)

    def after_execution_fails(self, executor: Any, error: Exception) -> None:
        """Forget one that has failed."""
        self.running.discard(executor)

    @classmethod
    def end(cls) -> bool:
        """End every dataset and its actors; whether there was any."""
        executors = list(cls.running)
        for executor in executors:
            with contextlib.suppress(Exception):  # ray.shutdown ends what this cannot
                executor.shutdown(force=True)
        return bool(executors)
