"""Ray Data's options for the generate job."""

import logging
from typing import Any

from pipelines.cluster.config import RunConfig


def set_options(context: Any, run: RunConfig) -> None:
    """Set a `DataContext` up for this job, in place."""
    for handler in logging.getLogger("ray.data").handlers:
        if handler.get_name() == "console":  # the file in Ray's log directory keeps everything
            handler.setLevel(logging.WARNING)
            handler.addFilter(_is_not_about_progress_bars)
    context.target_max_block_size = None  # a unit stays one block, however large
    context.execution_no_progress_timeout_s = -1  # a unit of long texts may take longer than half an hour
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.retried_map_errors = True  # storage that fails for a moment; bad rows never raise
    context.max_map_retries = run.retries
    # A pool whose actors hold all the units they may is full; Ray's 1.75 is above what it can ever reach.
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0


def _is_not_about_progress_bars(record: logging.LogRecord) -> bool:
    return "Progress bars disabled" not in record.getMessage()
