"""Write a finished run's rows into larger files or a Delta table: `python jobs/compact.py --config FILE`.

FILE is the run's own; the section output.compact says what to make. Exit codes: 0 done, 2 a mistake in the
config or on the command line, 3 interrupted (the same command goes on), 1 anything else.
"""

import argparse
import sys

from pipelines.command.job import job_console, job_parser, run_job_command


def main(arguments: list[str] | None = None) -> int:
    """Compact the run; returns the exit code."""
    parser = job_parser(
        "Write a finished run's rows into larger files, by partitions or to a Delta table.",
        configs="configs/generate",
        example="output.compact.file_mib=256",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what there is to do, write nothing")
    options = parser.parse_args(arguments)
    return run_job_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    from pipelines.command.config_file import load_config
    from pipelines.generate.compact.job import compact_run
    from pipelines.generate.config.job import GenerateConfig

    config = load_config(GenerateConfig, options.config, options.set)
    job_console().print(compact_run(config, dry_run=options.dry_run), markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
