"""What a report's figures mean: whether the run is good, and what its operator should know."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipelines.command.wording import count_of

if TYPE_CHECKING:
    from pipelines.generate.job.job import Job

MOST_REASONS = 3  # of errors in the line that says why a run failed
OFTEN = 0.25  # of the steps; below that drafting is called off


def is_mismatch(job: "Job", report: Mapping[str, Any]) -> bool:
    """Whether an engine that promises AR's text broke the promise, and the operator did not accept it."""
    audit = report["audit"]
    differs = audit.get("compared", 0) > audit.get("identical", 0)
    return differs and report["exactness"] == "exact" and job.config.audit.enabled


def mismatch_reason(report: Mapping[str, Any]) -> str:
    """One line that names the rows."""
    audit = report["audit"]
    rows = ", ".join(
        f"{row['id']}[{row['sample']}] from token {row['first_token']}" for row in audit["mismatches"][:5]
    )
    count = audit["compared"] - audit["identical"]
    return (
        f"audit mismatch: {count} of {audit['compared']} rows differ from plain AR decoding although the "
        f"engine says exact: {rows}; the rows are written, _SUCCESS is not; see _run/report.json, and set "
        "audit.enabled=false to accept the output"
    )


def has_too_many_errors(job: "Job", report: Mapping[str, Any]) -> bool:
    """Whether more rows failed than `run.max_error_share` allows."""
    rows = report["rows"] + report["dropped"]
    return report["errors"] > job.config.run.max_error_share * rows


def errors_reason(job: "Job", report: Mapping[str, Any]) -> str:
    """One line that names the most frequent errors."""
    kinds = list(report["error_kinds"].items())[:MOST_REASONS]
    reasons = "; ".join(
        f"{entry['count']:,} x {one['error']} (row {one['id']})"
        for _, entry in kinds
        for one in entry["examples"][:1]
    )
    rows, most = count_of(report["rows"] + report["dropped"], "row"), job.config.run.max_error_share
    return (
        f"{report['errors']:,} of {rows} are error rows, more than run.max_error_share {most:g} allows: "
        f"{reasons}; all rows are written, _SUCCESS is not: mend the cause and run --only-failed, or set "
        "run.max_error_share=1"
    )


def drafting_note(report: Mapping[str, Any]) -> str | None:
    """That the policy stopped drafting, and what it saw; None where most steps drafted."""
    drafting = report.get("drafting")
    if drafting is None or drafting["share"] >= OFTEN:
        return None
    off, found = 100 * (1 - drafting["share"]), drafting["accepted"]
    return (
        f"drafting is off in {off:.0f} % of the steps, where it would not have paid: {found:.2f} drafts "
        f"({1 + found:.2f} tokens) stand in a step that drafts"
    )


def prompt_note(report: Mapping[str, Any]) -> str:
    """How many tokens the prompts have, and how many of them were in the cache already."""
    total, cached = report["prompt_tokens"], report.get("cached_tokens", 0)
    return f"{total:,}" + (f", {100 * cached / total:.0f} % of them found in the cache" if cached else "")


def lookup_note(report: Mapping[str, Any]) -> str | None:
    """How many of the drafts that were looked up in earlier text stood; None where none was tried."""
    lookup = report.get("lookup")
    if not lookup or not lookup["drafted"]:
        return None
    return f"{lookup['accepted']:,} of {count_of(lookup['drafted'], 'draft')} from earlier text stood"


def duplicates_note(report: Mapping[str, Any]) -> str | None:
    """How many ids came twice, if any did."""
    if not (count := report.get("duplicate_ids")):
        return None
    return f"{count_of(count, 'row')} with an id (input.id_column) that an earlier row has; all are written"
