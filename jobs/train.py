"""Train a backbone or a diffusion head: `python jobs/train.py --config FILE`.

Exit codes: 0 done, 2 a mistake in the config or on the command line (one line on stderr), 3 interrupted by
SIGTERM or Ctrl-C (the same command goes on from the last checkpoint), 1 anything else.
"""

import argparse
import os
import sys

from rich.console import Console

from pipelines.command.job import job_parser, run_job_command
from pipelines.command.signals import StopSignals


def keep_freed_memory() -> None:
    """Start this program again with the allocator's limits set, unless the caller has set them."""
    from pipelines.train.allocator import MALLOC_LIMITS

    if sys.platform == "linux" and not any(name in os.environ for name in MALLOC_LIMITS):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | MALLOC_LIMITS)


def main(arguments: list[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    parser = job_parser(
        "Train a backbone or a diffusion head.", configs="configs/train", example="loop.max_tokens=1000000"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything, show what would be done, write nothing"
    )
    options = parser.parse_args(arguments)
    with StopSignals() as stop:
        return run_job_command(lambda: _run(options, Console(), stop))


def _run(options: argparse.Namespace, console: Console, stop: StopSignals) -> int:
    from pipelines.train.config import load_train_config
    from pipelines.train.dry_run import dry_run
    from pipelines.train.job import train

    config = load_train_config(options.config, options.set)
    if options.dry_run:
        for what, value in dry_run(config):
            print(f"{what:20}{value}")
        return 0
    progress = train(config, console=console, stop=stop)
    print(f"trained {config.output.path}: {progress.tokens} tokens in {progress.seconds:.0f} s")
    return 0


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
