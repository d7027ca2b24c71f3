"""Generate completions for a data set of prompts: `python jobs/generate.py --config FILE`.

Exit codes: 0 done, 2 a mistake in the config or on the command line (one line on stderr), 1 anything else.
"""

import argparse
import logging
import sys

from rich.console import Console


def main(arguments: list[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    options = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    from orthrus_core.errors import ConfigError, OrthrusError

    try:
        return _run(options, Console())
    except ConfigError as error:
        print(f"config error: {error}", file=sys.stderr)
        return 2
    except OrthrusError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: finished units are kept, the same command goes on from there", file=sys.stderr)
        return 1


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Generate completions for a data set of prompts.")
    parser.add_argument("--config", required=True, metavar="FILE", help="yaml file, see configs/generate")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override, as decode.mode=autoregressive",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything, show the plan, start nothing"
    )
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace, console: Console) -> int:
    from pipelines.config import GenerateConfig, load_config
    from pipelines.job import prepare, preview
    from pipelines.report import render_plan, render_report

    job = prepare(load_config(GenerateConfig, options.config, options.set))
    if options.dry_run:
        console.print(render_plan(job, preview(job)))
        return 0
    from pipelines.build import run_job
    from pipelines.progress import Progress

    rows = job.plan.num_rows
    done = rows - sum(unit.num_rows for unit in job.units)
    every_s = job.config.run.progress_every_s
    report = run_job(job, Progress(total_rows=rows, done_rows=done, every_s=every_s, console=console))
    console.print(render_report(job, report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
