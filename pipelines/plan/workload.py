"""The work of a generate job, as its data tell: rows from the shards' metadata, tokens from a sample."""

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orthrus_core.errors import ConfigError
from orthrus_core.evaluation.capacity import Work
from orthrus_core.evaluation.curve import AcceptanceCurve
from pipelines.generate.job import Job, new_renderer
from pipelines.generate.prompts import RenderedRow, render_rows
from pipelines.generate.source import column_types, read_unit
from pipelines.generate.units import Unit
from pipelines.storage import join, read_bytes

REPORT = ("_run", "report.json")


@dataclass(frozen=True)
class Prompts:
    """Prompt lengths of a sample.

    Attributes:
        rows: sampled; errors: of them, those that cannot be rendered.
        mean, p95, longest: tokens.
    """

    rows: int
    errors: int
    mean: float
    p95: float
    longest: int


@dataclass(frozen=True)
class EarlierRun:
    """What a run that is over tells about the next one on such data.

    Attributes:
        completion_tokens: mean of a completion.
        curve: acceptance by position; None where nothing was drafted.
    """

    completion_tokens: float
    curve: AcceptanceCurve | None


def sample_prompts(job: Job, *, max_rows: int, max_shards: int) -> Prompts:
    """Render rows from the first unit of shards that lie evenly in the listing.

    Raises:
        ConfigError: not one sampled row makes a prompt.
    """
    first_units = [unit for unit in job.plan.units if unit.index == 0]
    step = max(1, len(first_units) // max_shards)
    chosen = first_units[::step][:max_shards]
    rows: list[RenderedRow] = []
    renderer = new_renderer(job.config, job.checkpoint)
    for unit in chosen:
        table = read_unit(
            job.plan.shards[unit.shard],
            _beginning(job, unit, max_rows // len(chosen)),
            column_types(job.plan, job.layout),
        )
        rows += render_rows(table.slice(0, max(1, max_rows // len(chosen))), renderer, job.config)
    lengths = sorted(len(row.prompt_ids) for row in rows if row.prompt_ids is not None)
    if not lengths:
        raise ConfigError(f"job.config: none of {len(rows)} sampled rows makes a prompt: {rows[0].error}")
    p95 = lengths[min(len(lengths) - 1, int(0.95 * len(lengths)))]
    return Prompts(len(rows), len(rows) - len(lengths), statistics.fmean(lengths), p95, lengths[-1])


def _beginning(job: Job, unit: Unit, rows: int) -> Unit:
    """The first rows of a unit; of jsonl the unit itself, whose bytes are known only as a whole."""
    if job.plan.shards[unit.shard].format != "parquet":
        return unit
    return Unit(unit.shard, 0, 0, min(max(1, rows), unit.num_rows))


def earlier_run(url: str) -> EarlierRun:
    """Read the report of a run.

    Args:
        url: its output path.
    Raises:
        ConfigError: there is no report, or the run completed nothing.
    """
    text = read_bytes(join(url, *REPORT))
    if text is None:
        raise ConfigError(f"job.earlier_run: {url} holds no {'/'.join(REPORT)}: give a run's output path")
    report: Mapping[str, Any] = json.loads(text)
    completions = report["rows"] - report["errors"]
    if completions < 1:
        raise ConfigError(f"job.earlier_run: {url} has no completion: give a run that has")
    accepted, drafted = report["accepted_by_position"], report["drafted_by_position"]
    curve = AcceptanceCurve.from_counts(accepted, drafted) if sum(drafted) else None
    return EarlierRun(report["completion_tokens"] / completions, curve)


def work_left(job: Job, prompts: Prompts, completion_tokens: float) -> Work:
    """The rows that the job still has to do."""
    return Work(
        rows=sum(unit.num_rows for unit in job.units),
        prompt_tokens=prompts.mean,
        completions=job.config.sampling.n,
        completion_tokens=completion_tokens,
    )
