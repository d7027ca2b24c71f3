"""What a device would do, without it: `python jobs/plan.py --config FILE`.

Throughput by batch size and context, or with a section `job` the hours, memory and price of a generate job.

Exit codes: 0 done, 2 a mistake in the config or on the command line (one line on stderr), 1 anything else.
"""

import argparse
import sys

from rich.console import Console

from pipelines.command import job_parser, run_job_command


def main(arguments: list[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    parser = job_parser(
        "Simulate tokens per second by batch size and context, or plan the capacity for a generate job.",
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
    from pipelines.plan.job import capacity, measure, plan
    from pipelines.plan.report import render_capacity, render_measurement, render_plan

    if config.job is None:
        console.print(render_plan(config, plan(config)))
    else:
        console.print(render_capacity(config, capacity(config)))
    if config.measure:
        console.print(render_measurement(measure(config)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
