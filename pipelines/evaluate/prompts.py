"""Prompt sets: read and rendered as the generate job does it."""

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from orthrus_core.errors import ConfigError
from pipelines.checkpoint.directory import Checkpoint
from pipelines.evaluate.config import EvaluateConfig, PromptSetConfig, generate_config
from pipelines.generate.config.job import GenerateConfig
from pipelines.generate.job.job import new_renderer
from pipelines.generate.prompt.unit import needed_columns, render_rows
from pipelines.read.choose_columns import choose_layout
from pipelines.read.datasets import exported, plain_paths
from pipelines.read.shards import inspect_shards, list_shards
from pipelines.read.source import column_types, read_unit
from pipelines.read.units import Plan, plan_units

UNIT_ROWS = 256

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PromptRow:
    """One prompt; kind and answer are None where answers are not checked."""

    id: str
    prompt_ids: list[int]
    kind: str | None = None
    answer: str | None = None


@dataclass(frozen=True)
class PromptSet:
    """The usable rows of a set.

    Attributes:
        available: rows in the files.
        errors: "id: reason" of rows that were read and cannot be run.
    """

    name: str
    rows: tuple[PromptRow, ...]
    available: int
    errors: tuple[str, ...]

    @property
    def prompts(self) -> list[list[int]]:
        """Token ids of the prompts."""
        return [row.prompt_ids for row in self.rows]


def read_prompt_sets(
    config: EvaluateConfig, checkpoint: Checkpoint
) -> tuple[dict[str, PromptSet], dict[str, str]]:
    """Read all sets; returns them and, of those that need not be there and are not, the reasons.

    Raises:
        ConfigError: names every set that is of no use and has to be there, all if none is.
    """
    found: dict[str, PromptSet] = {}
    absent: dict[str, str] = {}
    for name in config.prompt_sets:
        try:
            found[name] = _read(config, name, checkpoint)
        except ConfigError as error:
            absent[name] = f"prompt_sets.{name}: {error}"
    mistakes = [why for name, why in absent.items() if config.prompt_sets[name].required or not found]
    if mistakes:
        raise ConfigError("; ".join(mistakes))
    for why in absent.values():
        logger.warning("left out: %s", why)
    return found, absent


def _read(config: EvaluateConfig, name: str, checkpoint: Checkpoint) -> PromptSet:
    source, generate = config.prompt_sets[name], generate_config(config, name)
    tables, available = _read_tables(config, source, generate)
    renderer = new_renderer(generate, checkpoint)
    rendered = [row for table in tables for row in render_rows(table, renderer, generate)]
    kinds = _column(tables, source.kind_column if source.score == "demo" else None)
    answers = _column(tables, source.answer_column if source.answer_columns else None)
    rows: list[PromptRow] = []
    errors: list[str] = []
    for row, kind, answer in zip(rendered, kinds, answers, strict=True):
        if row.prompt_ids is None:
            errors.append(f"{row.id}: {row.error}")
        elif source.answer_columns and answer is None:
            errors.append(f"{row.id}: {source.answer_column} is null")
        else:
            rows.append(PromptRow(row.id, row.prompt_ids, kind, answer))
    if not rows:
        raise ConfigError("no usable row" + (f"; {errors[0]}" if errors else ", the files are empty"))
    if errors:
        logger.warning("prompt_sets.%s: %d rows left out, first %s", name, len(errors), errors[0])
    return PromptSet(name, tuple(rows), available, tuple(errors))


def _read_tables(
    config: EvaluateConfig, source: PromptSetConfig, generate: GenerateConfig
) -> tuple[list[pa.Table], int]:
    """The first `rows` rows of the files by unit, and how many there are."""
    needed = needed_columns(generate) | dict.fromkeys(source.answer_columns, "text")
    exports, _ = exported(generate.input, str(config.output.parent), is_begun=False)
    files = list_shards((*plain_paths(generate.input), *exports), generate.input.format)
    plan = plan_units(inspect_shards(files, needed=needed, unit_rows=UNIT_ROWS, carried=()), UNIT_ROWS)
    if not plan.units:
        raise ConfigError("the files have no rows")
    layout = choose_layout(plan.schema, needed=[*needed], carry=(), id_column=source.id_column)
    limits = [limit for limit in (source.rows, config.rows) if limit is not None]
    return _first_rows(plan, column_types(plan, layout), min(limits, default=plan.num_rows)), plan.num_rows


def _first_rows(plan: Plan, types: pa.Schema, limit: int) -> list[pa.Table]:
    tables: list[pa.Table] = []
    rows_left = limit
    for unit in plan.units:
        if rows_left <= 0:
            break
        tables.append(read_unit(plan.shards_of(unit), unit, types).slice(0, rows_left))
        rows_left -= tables[-1].num_rows
    return tables


def _column(tables: Sequence[pa.Table], name: str | None) -> list[Any]:
    """Values of a column; None for each row where it has no name."""
    if name is None:
        return [None] * sum(table.num_rows for table in tables)
    return [value for table in tables for value in table.column(name).to_pylist()]


def lengthened(prompts: Sequence[list[int]], context: int) -> Iterator[list[int]]:
    """Yield each prompt behind others of them, over and over, so that it has `context` tokens.

    Args:
        prompts: none longer than `context`.
    """
    for index, prompt in enumerate(prompts):
        others = [*prompts[index + 1 :], *prompts[:index]] or prompts
        before = list(itertools.islice(itertools.cycle(itertools.chain(*others)), context - len(prompt)))
        yield before + prompt


def describe(prompt_set: PromptSet) -> Mapping[str, Any]:
    """The set as the report shows it; of the errors, the first few."""
    return {
        "rows": len(prompt_set.rows),
        "available_rows": prompt_set.available,
        "errors": len(prompt_set.errors),
        "first_errors": list(itertools.islice(prompt_set.errors, 5)),
        "prompt_tokens": sum(map(len, prompt_set.prompts)),
    }
