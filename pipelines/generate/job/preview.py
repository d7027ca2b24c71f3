"""What a dry run tries: the first row of every file, and the prompts of a few."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from orthrus_core.errors import ConfigError
from pipelines.command.wording import count_of
from pipelines.generate.hooks.tables import map_input
from pipelines.generate.job.job import Job, new_renderer
from pipelines.generate.job.params_trial import ParamsTrial
from pipelines.generate.job.sizes import PROMPT_TOKENS, Sizes, choose_sizes, device_here, memory_here
from pipelines.generate.prompt.unit import RenderedRow, render_rows
from pipelines.read.columns import INPUT_FAULTS, ROW_ERROR
from pipelines.read.source import column_types, read_unit
from pipelines.read.units import Unit


@dataclass(frozen=True)
class Preview:
    """What a dry run shows.

    Attributes:
        rows: (prompt text or None, rendered row) of a few rows.
        sizes: of an actor on this machine, those rows taken for typical ones.
    """

    rows: tuple[tuple[str | None, RenderedRow], ...]
    sizes: Sizes


def preview(job: Job, num_prompts: int = 3) -> Preview:
    """Read the first row of every shard, and render the first few rows of the first unit.

    Raises:
        ConfigError: a shard whose rows cannot be read, or a model that does not fit this machine.
    """
    first_units = [unit for unit in job.plan.units if unit.index == 0]
    faults: list[str] = []
    tables: list[pa.Table] = []
    for unit in first_units:
        try:
            table = first_rows(job, unit, num_prompts if not tables else 1)
            errors = [error for error in table.column(ROW_ERROR).to_pylist() if error is not None]
            if found := [*dict.fromkeys(error for error in errors if error.startswith(INPUT_FAULTS))]:
                faults += found
            else:
                tables = tables or [table]
        except Exception as error:  # any reader's error makes it a bad shard
            faults.append(f"{job.plan.shards[unit.shard].file.url}: {' '.join(str(error).split())}")
    if faults and (job.config.input.on_bad_shard == "fail" or not tables):
        raise ConfigError(f"{len(faults)} bad input file(s): " + "; ".join(faults))
    renderer = new_renderer(job.config, job.checkpoint)
    trial = ParamsTrial(job.config, job.checkpoint)
    table = map_input(tables[0].slice(0, num_prompts), job.hooks.input)
    rows = [trial.of_row(row) for row in render_rows(table, renderer, job.config)]
    texts = [renderer.decode(row.prompt_ids) if row.prompt_ids else None for row in rows]
    return Preview(tuple(zip(texts, rows, strict=True)), _sizes(job, rows))


def check_preview(job: Job, found: Preview) -> None:
    """Refuse a job of which every row that was tried fails, unless it allows that.

    Raises:
        ConfigError: with the first row's error.
    """
    errors = [(row.id, row.error) for _, row in found.rows if row.error is not None]
    if errors and len(errors) == len(found.rows) and job.config.run.max_error_share < 1:
        row_id, error = errors[0]
        raise ConfigError(
            f"{count_of(len(errors), 'row')} tried, every one is an error row: {error} (row {row_id}); "
            "set run.max_error_share=1 to allow that"
        )


def _sizes(job: Job, rows: Sequence[RenderedRow]) -> Sizes:
    lens = [len(row.prompt_ids) for row in rows if row.prompt_ids]
    asked = job.config.model.device
    return choose_sizes(
        job.config,
        job.checkpoint,
        device_here(asked),
        memory_here(asked),
        num_rows=max(1, sum(unit.num_rows for unit in job.units)),
        prompt_tokens=sum(lens) / len(lens) if lens else PROMPT_TOKENS,
    )


def first_rows(job: Job, unit: Unit, count: int) -> pa.Table:
    """The first rows of a shard, of jsonl cut from its first unit; all of several small shards."""
    types, shards = column_types(job.plan, job.layout), job.plan.shards_of(unit)
    if len(shards) == 1 and shards[0].format == "parquet":
        return read_unit(shards, Unit(unit.shard, 0, 0, min(count, unit.num_rows)), types)
    table = read_unit(shards, unit, types)
    return table.slice(0, count) if len(shards) == 1 else table
