"""What is stored and said of a run that was stopped before its end."""

from typing import TYPE_CHECKING

from pipelines.command.signals import INTERRUPTED, Interrupted
from pipelines.generate.report import RunTimes, partial_report, store_report

if TYPE_CHECKING:
    from pipelines.generate.job.job import Job


def interrupted(job: "Job", times: RunTimes, cause: KeyboardInterrupt) -> Interrupted:
    """Store the report of a run that was stopped, drained or at once.

    Returns:
        What to raise, with the line for its operator.
    """
    try:
        rows = job.plan.num_rows - sum(unit.num_rows for unit in job.ledger.remaining(job.plan))
        reason = str(cause) or "stopped by Ctrl-C"
        report = partial_report(job, times, "interrupted", reason, exit_code=INTERRUPTED)
        store_report(job, report | {"rows_done": rows})
    except Exception as error:  # storage that fails as well: what is committed stays all the same
        return Interrupted(f"what is finished is kept, the same command goes on; no report: {error}")
    return Interrupted(
        f"{rows} of {job.plan.num_rows} rows are finished and kept in {job.ledger.url}; "
        "the same command goes on from there"
    )
