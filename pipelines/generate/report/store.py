"""The end of a run: its figures gathered, its status decided, its report written."""

import logging
from typing import TYPE_CHECKING, Any

from orthrus_core.errors import ConfigError, OrthrusError
from pipelines.generate.report.card import data_card
from pipelines.generate.report.figures import RunTimes, is_mismatch, mismatch_reason, run_report
from pipelines.generate.report.html import html_report
from pipelines.generate.report.sums import RunSums
from pipelines.storage import join, put

if TYPE_CHECKING:
    from pipelines.generate.job import Job

REPORT_PAGE = "report.html"

logger = logging.getLogger(__name__)


def finish_run(job: "Job", sums: RunSums, times: RunTimes) -> dict[str, Any]:
    """Write report, page and data card of a complete run, and _SUCCESS where its audit allows it.

    Returns:
        The report; its status is "done" or "mismatch".
    """
    manifest = job.ledger.manifest()
    report = run_report(job, sums, times, manifest)
    if is_mismatch(job, report):
        reason = mismatch_reason(report)
        report |= {"status": "mismatch", "exit_code": 1, "reason": reason}
        logger.error(reason)
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

    Its sums are those of this session: a run that has to stop reads no files. `units` and `rows` say how far
    the session got, `covers` that it is not the whole run.

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
    report = run_report(job, times.sums, times, manifest, status=status, exit_code=exit_code, reason=reason)
    return report | {"covers": "this session"}


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


def _put_page(job: "Job", report: dict[str, Any]) -> None:
    """Write the page; a fault of the drawing must not cost a finished run its _SUCCESS."""
    try:
        page = html_report(report)
    except Exception:
        logger.exception("no %s", REPORT_PAGE)
        return
    put(join(job.ledger.run_url, REPORT_PAGE), page.encode())
