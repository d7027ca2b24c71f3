"""What a generate job takes, before it runs: `python jobs/plan.py --config FILE`, the config of that job.

Memory of an actor, hours, price, and how many actors meet a deadline.

Exit codes: 0 done, 2 a mistake in the config or on the command line (one line on stderr), 1 anything else.
"""

import argparse
import sys

from rich.console import Console

from pipelines.command.job import job_parser, run_job_command


def main(arguments: list[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    parser = job_parser(
        "Plan memory, hours, price and number of actors for a generate job.",
        configs="configs/generate",
        example="plan.deadline_h=6",
    )
    options = parser.parse_args(arguments)
    return run_job_command(lambda: _run(options, Console()))


def _run(options: argparse.Namespace, console: Console) -> int:
    from pipelines.command.config_file import load_config
    from pipelines.plan import PlanConfig, plan_job

    console.print(plan_job(load_config(PlanConfig, options.config, options.set)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
