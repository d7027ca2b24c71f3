"""What is stored and said of a run that was stopped before its end."""

from typing import TYPE_CHECKING

from pipelines.generate.report import RunTimes, run_report
from pipelines.signals import INTERRUPTED, Interrupted

if TYPE_CHECKING:
    from pipelines.generate.job import Job


def interrupted(job: "Job", times: RunTimes, cause: KeyboardInterrupt) -> Interrupted:
    """Store the report of a run that was stopped, drained or at once.

    Returns:
        What to raise, with the line for its operator.
    """
    try:
        rows = job.plan.num_rows - sum(unit.num_rows for unit in job.ledger.remaining(job.plan))
        job.ledger.write_report(
            {
                "status": "interrupted",
                "exit_code": INTERRUPTED,
                "reason": str(cause) or "stopped by Ctrl-C",
                "output": job.ledger.url,
                "fingerprint": job.fingerprint,
                "rows": rows,
                "rows_planned": job.plan.num_rows,
                "this_run": run_report(job, [], times, None)["this_run"],
            }
        )
    except Exception as error:  # storage that fails as well: what is committed stays all the same
        return Interrupted(f"what is finished is kept, the same command goes on; no report: {error}")
    return Interrupted(
        f"{rows} of {job.plan.num_rows} rows are finished and kept in {job.ledger.url}; "
        "the same command goes on from there"
    )
