"""Show how a generate run stands, in progress or ended: `python jobs/inspect_run.py OUTPUT_PATH`.

Not called inspect.py: jobs/ is first on the path of every job, and would hide the standard library's module.

Exit codes: 0 shown, 2 no run there or a mistake on the command line, 3 interrupted, 1 anything else, damaged
files among them.
"""

import argparse
import json
import sys

from pipelines.command.job import job_console, run_job_command


def main(arguments: list[str] | None = None) -> int:
    """Show the run; returns the exit code."""
    parser = argparse.ArgumentParser(description="Show how a generate run stands.")
    parser.add_argument("path", help="the run's output.path, local or any fsspec URL such as s3://")
    parser.add_argument("--errors", type=int, default=0, metavar="N", help="list the first N error rows")
    parser.add_argument("--json", action="store_true", help="print json")
    parser.add_argument(
        "--watch-s",
        type=float,
        default=25.0,
        metavar="S",
        help="watch the heartbeat of a driver on another machine for so long (a beat is 10 s)",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="read every committed file to its last page, against its checksums",
    )
    options = parser.parse_args(arguments)
    return run_job_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    from pipelines.generate.watch.inspect import error_rows, inspect_run

    state = inspect_run(options.path, watch_s=options.watch_s, verify=options.verify)
    errors = error_rows(state, options.errors)
    if options.json:
        tree = json.dumps(state.to_dict() | {"error_rows": errors}, indent=2, default=str)
        job_console().out(tree, highlight=False)
        return int(bool(state.faults))
    from pipelines.generate.watch.inspect_view import render_state

    job_console().print(render_state(state, errors))
    return int(bool(state.faults))


if __name__ == "__main__":
    sys.exit(main())
