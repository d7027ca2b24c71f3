"""Measure this engine against others: `python -m tests.benchmarks.peers --config FILE` (`make bench-peers`).

Each runs in a process, and may run in an environment, of its own. Exit codes are those of the evaluate job.
"""

import argparse
import sys
from typing import Any

from rich.console import Console

from pipelines.checkpoint.directory import fetch, locate
from pipelines.command.config_file import load_config
from pipelines.command.job import job_parser, run_job_command
from pipelines.evaluate.job import evaluate, load, write_report
from pipelines.evaluate.prompts import read_prompt_set
from pipelines.evaluate.report import render_evaluation
from tests.benchmarks.peers.compare import compare_with_peers
from tests.benchmarks.peers.config import PeersBenchmark
from tests.benchmarks.peers.report import render_peers


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    options = job_parser(
        "Measure speed against other engines.",
        configs="tests/benchmarks/peers/peers.yaml",
        example="peers.authors.path=CHECKOUT",
    ).parse_args(arguments)
    return run_job_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    config = load_config(PeersBenchmark, options.config, options.set)
    report = measure(config)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(render_peers(report["peers"]), render_evaluation(report, str(config.output)))
    return 0


def measure(config: PeersBenchmark) -> dict[str, Any]:
    """The evaluation's report, and in it `peers`, which are timed in model.dtype on the CPU."""
    report = evaluate(config)
    checkpoint = locate(config.model)
    path = fetch(checkpoint)
    model = load(config, checkpoint, config.model.dtype)
    prompt_set = read_prompt_set(config, config.peers.prompt_set, checkpoint)
    report["peers"] = compare_with_peers(config, model, path, prompt_set)
    write_report(config.output, report)
    return report


if __name__ == "__main__":
    sys.exit(main())
