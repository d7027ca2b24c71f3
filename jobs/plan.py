"""Simulate throughput on a device, without it: `python jobs/plan.py --config FILE`.

Exit codes: 0 done, 2 a mistake in the config or on the command line (one line on stderr), 1 anything else.
"""

import argparse
import sys

from rich.console import Console

from pipelines.command import job_parser, run_job_command


def main(arguments: list[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    parser = job_parser(
        "Simulate tokens per second by batch size and context: AR, fixed and adaptive block length.",
        configs="configs/plan",
        example="hardware=rtx-4090 --set model=qwen3-4b",
    )
    parser.add_argument(
        "--measure", action="store_true", help="as --set measure=true: compare the formula with this machine"
    )
    options = parser.parse_args(arguments)
    return run_job_command(lambda: _run(options, Console()))


def _run(options: argparse.Namespace, console: Console) -> int:
    from pipelines.config import load_config
    from pipelines.plan.config import PlanConfig

    overrides = [*options.set, "measure=true"] if options.measure else options.set
    config = load_config(PlanConfig, options.config, overrides)
    from pipelines.plan.job import measure, plan
    from pipelines.plan.report import render_measurement, render_plan

    console.print(render_plan(config, plan(config)))
    if config.measure:
        console.print(render_measurement(measure(config)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
