"""What every job has on its command line: --config, --set, logging, exit codes."""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from pipelines.command.signals import INTERRUPTED

if TYPE_CHECKING:
    from rich.console import Console

REPORT_WIDTH = 120  # where there is no terminal, whose own width counts
LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"


def job_parser(
    description: str, *, configs: str, example: str, needs_config: bool = True
) -> argparse.ArgumentParser:
    """Return a parser with the options that all jobs share.

    Args:
        description: what the job does.
        configs: folder of its configs, for the help text.
        example: an override, for the help text.
        needs_config: whether there is nothing to do without one.
    """
    parser = argparse.ArgumentParser(description=description)
    help_text = f"yaml file or URL, see {configs}"
    parser.add_argument("--config", required=needs_config, metavar="FILE", help=help_text)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help=f"override, as {example}; may repeat"
    )
    return parser


def job_console() -> "Console":
    """The console of a job: the terminal, or wide lines elsewhere; a reader who leaves early ends nothing."""
    from rich.console import Console

    class JobConsole(Console):
        def on_broken_pipe(self) -> None:
            """Write what is left to nowhere: `| head` has seen enough, and the job is not its output."""
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    return JobConsole() if sys.stdout.isatty() else JobConsole(width=REPORT_WIDTH)


def run_job_command(run: Callable[[], int]) -> int:
    """Run a job, its log on stderr, and say in one line there what ended it early.

    Returns:
        The exit code: that of `run`, 2 for a mistake in the config or on the command line, 3 when the
        operator stopped it, 1 for any other failure that is explained. Errors of our own code are raised
        with their traceback.
    """
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, stream=sys.stderr)
    try:
        code, reason = _run(run)
    except KeyboardInterrupt as error:
        kept = str(error) or "what is finished is kept, the same command goes on from there"
        code, reason = INTERRUPTED, f"interrupted: {kept}"
    if reason:
        from pipelines.storage.config import redact

        sys.stderr.write(redact(reason) + "\n")
    return code


def _run(run: Callable[[], int]) -> tuple[int, str]:
    """Exit code and the line that explains it, if it needs any."""
    from orthrus_core.errors import ConfigError, OrthrusError  # late: importing the core takes seconds

    try:
        return run(), ""
    except ConfigError as error:
        return 2, f"config error: {error}"
    except OrthrusError as error:
        return 1, f"failed: {error}"
    except SystemExit as error:  # the handler that Ray puts for SIGTERM, before the job's own is back
        if error.code != signal.SIGTERM:
            raise
        raise KeyboardInterrupt from None
