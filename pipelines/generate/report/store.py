"""The end of a run: its figures gathered, its status decided, its report written."""

import copy
import logging
from typing import TYPE_CHECKING, Any

from orthrus_core.errors import ConfigError, OrthrusError
from pipelines.command.signals import INTERRUPTED, Interrupted
from pipelines.generate.report.card import data_card
from pipelines.generate.report.figures import RunTimes, run_report
from pipelines.generate.report.html import html_report
from pipelines.generate.report.samples import first_completions
from pipelines.generate.report.verdict import (
    duplicates_note,
    errors_reason,
    has_too_many_errors,
    is_mismatch,
    mismatch_reason,
)
from pipelines.generate.write.sums import RunSums
from pipelines.generate.write.unit_file import read_footer
from pipelines.storage.files import join, map_files, put

if TYPE_CHECKING:
    from pipelines.generate.job.job import Job

REPORT_PAGE = "report.html"
MOST_READ = 2000  # footers that a run reads before it stops: a second on a disk, up to 20 s of a store

logger = logging.getLogger(__name__)


def finish_run(job: "Job", sums: RunSums, times: RunTimes) -> dict[str, Any]:
    """Write report, page and data card of a complete run, and _SUCCESS where audit and errors allow it.

    Returns:
        The report; its status is "done", "mismatch" or "failed".
    """
    manifest = job.ledger.manifest()
    report = run_report(job, sums, times, manifest) | {"samples": first_completions(job)}
    if note := duplicates_note(report):
        logger.warning(note)
    if is_mismatch(job, report):
        report |= {"status": "mismatch", "exit_code": 1, "reason": mismatch_reason(report)}
    elif has_too_many_errors(job, report):
        report |= {"status": "failed", "exit_code": 1, "reason": errors_reason(job, report)}
    if report["reason"]:
        logger.error(report["reason"])
        job.ledger.reopen()
        store_report(job, report)
        put(join(job.ledger.url, "README.md"), data_card(job, report).encode())
        return report
    _put_page(job, report)
    job.ledger.finish(report, data_card(job, report))
    return report


def partial_report(
    job: "Job", times: RunTimes, status: str, reason: str, *, exit_code: int = 1
) -> dict[str, Any]:
    """The report of a run that did not get to its end.

    Units of earlier sessions are added from their files' footers, where they are few enough to be read by one
    who has to stop; `covers` says whether they are.

    Args:
        status: "failed" or "interrupted".
        reason: in one line.
        exit_code: of the job.
    """
    try:
        manifest = job.ledger.manifest()
    except Exception as error:  # storage may be what failed
        logger.warning("report without the manifest: %r", error)
        manifest = None
    sums = _sums_of_all_sessions(job, times)
    report = run_report(
        job, sums or times.sums, times, manifest, status=status, exit_code=exit_code, reason=reason
    )
    covers = "this session" if sums is None else "all sessions"
    return report | {"covers": covers, "samples": first_completions(job)}


def _sums_of_all_sessions(job: "Job", times: RunTimes) -> RunSums | None:
    """This session's sums and those of the units that were there before it; None: not to be had quickly."""
    now = {*job.units, *job.left}
    earlier = [unit for unit in job.plan.units if unit not in now]
    if job.repair is not None or len(earlier) > MOST_READ:
        return None
    sums = copy.deepcopy(times.sums)
    try:
        for footer in map_files(_footer, [job.ledger.unit_url(unit) for unit in earlier]):
            if footer is not None:
                sums.add(footer)
    except Exception as error:  # the store may be what failed, a file may be damaged
        logger.warning("report of this session only: %s", error)
        return None
    return sums


def _footer(url: str) -> dict[str, Any] | None:
    """What a unit's file says; None: it was damaged, and so removed, and its rows are still to be made."""
    try:
        return read_footer(url)
    except FileNotFoundError:
        return None


def store_report(job: "Job", report: dict[str, Any]) -> None:
    """Write report.json, and report.html where that works."""
    job.ledger.write_report(report)
    _put_page(job, report)


def store_failure(job: "Job", times: RunTimes, error: Exception) -> OrthrusError:
    """Write the report of a run that failed; the error that says so in one line.

    Storage that fails here too is logged: the first reason is what counts.
    """
    if not isinstance(error, OrthrusError):
        reason = " ".join(str(error).split()) or type(error).__name__
        error = OrthrusError(f"{reason}; finished units are kept, the same command goes on from there")
    code = 2 if isinstance(error, ConfigError) else 1
    try:
        store_report(job, partial_report(job, times, "failed", str(error), exit_code=code))
    except Exception as fault:
        logger.warning("no report of the failure: %s: %s", type(fault).__name__, fault)
    return error


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


def _put_page(job: "Job", report: dict[str, Any]) -> None:
    """Write the page; a fault of the drawing must not cost a finished run its _SUCCESS."""
    try:
        page = html_report(report)
    except Exception:
        logger.exception("no %s", REPORT_PAGE)
        return
    put(join(job.ledger.run_url, REPORT_PAGE), page.encode())
