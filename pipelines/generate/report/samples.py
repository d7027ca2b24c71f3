"""The first completions of a run, for people who look at its report."""

import logging
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from pipelines.storage.files import open_file

if TYPE_CHECKING:
    from pipelines.generate.job.job import Job

COUNT = 3
MOST_ROWS = 64  # that are looked at for rows without an error
MOST_CHARS = 1500

logger = logging.getLogger(__name__)


def first_completions(job: "Job") -> list[dict[str, str]]:
    """Rows of the first unit that is there: {id, prompt, completion}; no prompt where it is not carried.

    They are decoration: a file that cannot be read is the final check's business.
    """
    try:
        left = set(job.ledger.remaining(job.plan))
        names = job.layout.file_names
        shown = {
            name: names[name] for name in ("id", "error", "completion", _asked_name(job)) if name in names
        }
        done = next(unit for unit in job.plan.units if unit not in left)
        with open_file(job.ledger.unit_url(done)) as handle:
            batches = pq.ParquetFile(handle).iter_batches(batch_size=MOST_ROWS, columns=[*shown.values()])
            rows = next(batches).rename_columns([*shown]).to_pylist()
    except StopIteration:
        return []
    except Exception as error:
        logger.warning("no completions in the report: %s: %s", type(error).__name__, error)
        return []
    good = [row for row in rows if row["error"] is None][:COUNT]
    return [
        {"id": _cut(row["id"]), "prompt": _cut(_asked(job, row)), "completion": _cut(row["completion"])}
        for row in good
    ]


def _asked_name(job: "Job") -> str:
    """The column that the prompt is; empty: it is made of several."""
    prompt = job.config.input.prompt
    return job.layout.within(prompt.column or prompt.messages or "")


def _asked(job: "Job", row: dict[str, Any]) -> str:
    asked = row.get(_asked_name(job)) or ""
    return asked if isinstance(asked, str) else str(asked[-1].get("content", ""))


def _cut(text: str) -> str:
    return text if len(text) <= MOST_CHARS else text[:MOST_CHARS] + " …"
