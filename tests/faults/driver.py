"""The generate job with a test double for its engine: `python tests/faults/driver.py CONFIG ENGINE`.

As jobs/generate.py, but for the engine: same preparation, same driver, same exit codes. ENGINE is a json of
`tests.faults.engines.Stub`'s fields.
"""

import json
import sys
from typing import Any

from pipelines.command.job import run_job_command
from pipelines.command.signals import StopSignals


def main() -> int:
    """Run the job; returns the exit code."""
    with StopSignals() as stop:
        return run_job_command(lambda: _run(stop))


def _run(stop: StopSignals) -> int:
    import ray

    import tests.fakes
    import tests.faults.engines
    from pipelines.command.config_file import load_config
    from pipelines.generate.build import run_job
    from pipelines.generate.config.job import GenerateConfig
    from pipelines.generate.job.job import prepare
    from pipelines.generate.watch.progress import Progress

    class NotingProgress(Progress):
        """Prints which actor did each unit."""

        def add(self, summary: dict[str, Any]) -> None:
            super().add(summary)
            print(f"unit_done actor={summary['actor']} rows={summary['rows']}", flush=True)

    for module in (tests.fakes, tests.faults.engines):
        ray.cloudpickle.register_pickle_by_value(module)
    job = prepare(load_config(GenerateConfig, sys.argv[1]))
    done = job.plan.num_rows - sum(unit.num_rows for unit in job.units)
    progress = NotingProgress(total_rows=job.plan.num_rows, done_rows=done, every_s=1.0)
    engine = tests.faults.engines.Stub(**json.loads(sys.argv[2]))
    return run_job(job, progress, engine, stop=stop).get("exit_code", 0)


if __name__ == "__main__":
    sys.exit(main())
