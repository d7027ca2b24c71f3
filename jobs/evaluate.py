"""Measure a model: right answers, exactness, acceptance, speed: `python jobs/evaluate.py --config FILE`.

`python jobs/evaluate.py --compare A.json B.json` prints what differs between two reports.

Exit codes: 0 done, 2 a mistake in the config or on the command line (one line on stderr), 1 anything else;
that includes rows that differ from AR decoding where the engine calls itself exact.
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from pipelines.command.job import job_console, job_parser, run_job_command


def main(arguments: list[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    parser = job_parser(
        "Measure right answers, exactness, acceptance and speed.",
        configs="configs/evaluate",
        example="prompt_sets.mine.path=FILE prompt_sets.mine.column=question",
        needs_config=False,
    )
    parser.add_argument(
        "--compare", nargs=2, type=Path, metavar="JSON", help="print what two reports differ in"
    )
    options = parser.parse_args(arguments)
    if not (options.config or options.compare):
        parser.error("one of --config and --compare is required")
    run = _compare if options.compare else _run
    return run_job_command(lambda: run(options, job_console()))


def _compare(options: argparse.Namespace, console: Console) -> int:
    from pipelines.evaluate.compare import compare_reports

    console.print(compare_reports(*options.compare))
    return 0


def _run(options: argparse.Namespace, console: Console) -> int:
    from pipelines.command.config_file import load_config
    from pipelines.evaluate.config import EvaluateConfig

    config = load_config(EvaluateConfig, options.config, options.set)
    from pipelines.evaluate.job import broken_promises, evaluate
    from pipelines.evaluate.report import render_evaluation

    report = evaluate(config)
    console.print(render_evaluation(report, str(config.output)))
    broken = broken_promises(report)
    if broken:
        print(f"failed: exact decoding differs from AR decoding: {'; '.join(broken)}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
