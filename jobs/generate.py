"""Generate completions for a data set of prompts: `python jobs/generate.py --config FILE`.

Exit codes: 0 done, 2 a mistake in the config or on the command line (one line on stderr), 3 interrupted by
SIGTERM or Ctrl-C (the same command goes on), 1 anything else: a failed audit, too many error rows, ...
"""

import argparse
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from pipelines.command.job import job_console, job_parser, run_job_command
from pipelines.command.signals import StopSignals

if TYPE_CHECKING:
    from pipelines.generate.config.job import GenerateConfig


def main(arguments: list[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    parser = job_parser(
        "Generate completions for a data set of prompts.",
        configs="configs/generate",
        example="decode.mode=autoregressive",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything, show the plan, start nothing"
    )
    parser.add_argument(
        "--only-failed", action="store_true", help="make the error rows of finished units again, nothing else"
    )
    options = parser.parse_args(arguments)
    with StopSignals() as stop:
        return run_job_command(lambda: _run(options, job_console(), stop))


def _run(options: argparse.Namespace, console: Console, stop: StopSignals) -> int:
    from pipelines.cluster.lock import refuse_second_driver
    from pipelines.cluster.session import RaySession
    from pipelines.command.config_file import load_config
    from pipelines.generate.config.job import GenerateConfig
    from pipelines.generate.watch.run_log import RunLog

    config = load_config(GenerateConfig, options.config, options.set)
    session = RaySession(config.run)
    with contextlib.closing(session), RunLog() as log:
        if not options.dry_run and not Path(config.output.path, "_run/_SUCCESS").exists():
            refuse_second_driver(config.output.path)
            session.begin()  # Ray starts while the rest is imported and planned
        return _run_job(config, options, console, stop, session, log)


def _run_job(config: "GenerateConfig", options, console: Console, stop: StopSignals, session, log) -> int:
    """Prepare and run; Ray starts meanwhile."""
    from pipelines.generate.job.job import prepare
    from pipelines.generate.job.preview import check_preview, preview
    from pipelines.generate.report.terminal import render_plan, render_report

    job = prepare(config, only_failed=options.only_failed)
    if options.dry_run:
        found = preview(job)
        console.print(render_plan(job, found))
        check_preview(job, found)
        return 0
    from pipelines.generate.build import run_job
    from pipelines.generate.watch.progress import Progress

    rows, every_s = job.plan.num_rows, config.run.progress_every_s
    done = rows - sum(unit.num_rows for unit in (*job.units, *job.left))
    progress = Progress(total_rows=rows, done_rows=done, every_s=every_s, console=console)
    report = run_job(job, progress, stop=stop, session=session, log=log)
    console.print(render_report(job, report))
    return int(report["exit_code"])


if __name__ == "__main__":
    sys.exit(main())
