"""Generate completions for a data set of prompts: `python jobs/generate.py --config FILE`.

Exit codes: 0 done, 2 a mistake in the config or on the command line (one line on stderr), 1 anything else,
a mismatch that the audit found among them.
"""

import argparse
import sys

from rich.console import Console

from pipelines.command import job_parser, run_job_command


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
    options = parser.parse_args(arguments)
    return run_job_command(lambda: _run(options, Console()))


def _run(options: argparse.Namespace, console: Console) -> int:
    from pipelines.config import load_config
    from pipelines.generate.config import GenerateConfig
    from pipelines.generate.job import prepare, preview
    from pipelines.generate.report import render_plan, render_report

    job = prepare(load_config(GenerateConfig, options.config, options.set))
    if options.dry_run:
        console.print(render_plan(job, preview(job)))
        return 0
    from pipelines.generate.build import run_job
    from pipelines.generate.progress import Progress

    rows = job.plan.num_rows
    done = rows - sum(unit.num_rows for unit in job.units)
    every_s = job.config.run.progress_every_s
    report = run_job(job, Progress(total_rows=rows, done_rows=done, every_s=every_s, console=console))
    console.print(render_report(job, report))
    return int(report["exit_code"])


if __name__ == "__main__":
    sys.exit(main())
