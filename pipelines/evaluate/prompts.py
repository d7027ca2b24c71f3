"""Prompt sets: read and rendered as the generate job does it, and checked answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa

from orthrus_core.errors import ConfigError
from pipelines.checkpoint.directory import Checkpoint
from pipelines.demo.tasks import Task, is_right
from pipelines.evaluate.config import EvaluateConfig, PromptSetConfig, generate_config
from pipelines.generate.config.job import GenerateConfig
from pipelines.generate.job.job import new_renderer
from pipelines.generate.prompt.unit import needed_columns, render_rows
from pipelines.read.columns import choose_layout
from pipelines.read.shards import inspect_shards, list_shards
from pipelines.read.source import column_types, read_unit
from pipelines.read.units import Plan, plan_units

UNIT_ROWS = 256


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


def read_prompt_set(config: EvaluateConfig, name: str, checkpoint: Checkpoint) -> PromptSet:
    """Read a set and turn its prompts into token ids.

    Raises:
        ConfigError: no such files or columns, or no usable row; names the set.
    """
    try:
        return _read(config, name, checkpoint)
    except ConfigError as error:
        raise ConfigError(f"prompt_sets.{name}: {error}") from error


def _read(config: EvaluateConfig, name: str, checkpoint: Checkpoint) -> PromptSet:
    source, generate = config.prompt_sets[name], generate_config(config, name, output="unused")
    tables, available = _read_tables(source, generate)
    renderer = new_renderer(generate, checkpoint)
    rendered = [row for table in tables for row in render_rows(table, renderer, generate)]
    facts = [_column(tables, name, source) for name in (source.kind_column, source.answer_column)]
    rows: list[PromptRow] = []
    errors: list[str] = []
    for row, kind, answer in zip(rendered, *facts, strict=True):
        if row.prompt_ids is None:
            errors.append(f"{row.id}: {row.error}")
        elif source.score and answer is None:
            errors.append(f"{row.id}: {source.answer_column} is null")
        else:
            rows.append(PromptRow(row.id, row.prompt_ids, kind, answer))
    if not rows:
        raise ConfigError("no usable row" + (f"; {errors[0]}" if errors else ", the files are empty"))
    return PromptSet(name, tuple(rows), available, tuple(errors))


def _read_tables(source: PromptSetConfig, generate: GenerateConfig) -> tuple[list[pa.Table], int]:
    """The first `rows` rows of the files by unit, and how many there are."""
    needed = needed_columns(generate)
    if source.score:
        needed |= {source.kind_column: "text", source.answer_column: "text"}
    files = list_shards(generate.input.paths, generate.input.format)
    plan = plan_units(inspect_shards(files, needed=needed, unit_rows=UNIT_ROWS, carried=()), UNIT_ROWS)
    if not plan.units:
        raise ConfigError("the files have no rows")
    layout = choose_layout(plan.schema, needed=[*needed], carry=(), id_column=source.id_column)
    return _first_rows(plan, column_types(plan, layout), source.rows), plan.num_rows


def _first_rows(plan: Plan, types: pa.Schema, limit: int | None) -> list[pa.Table]:
    tables: list[pa.Table] = []
    rows_left = plan.num_rows if limit is None else limit
    for unit in plan.units:
        if rows_left <= 0:
            break
        tables.append(read_unit(plan.shards_of(unit), unit, types).slice(0, rows_left))
        rows_left -= tables[-1].num_rows
    return tables


def _column(tables: Sequence[pa.Table], name: str, source: PromptSetConfig) -> list[Any]:
    if not source.score:
        return [None] * sum(table.num_rows for table in tables)
    return [value for table in tables for value in table.column(name).to_pylist()]


def score_rows(rows: Sequence[PromptRow], texts: Sequence[str]) -> dict[str, Any]:
    """Check completions against the right answers.

    Args:
        rows: all with an answer.
        texts: decoded completions, without special tokens.
    Returns:
        `rows`, `right`, `share` of right ones in [0, 1], and `by_kind`: kind to [right, rows].
    """
    by_kind: dict[str, list[int]] = {}
    for row, text in zip(rows, texts, strict=True):
        counts = by_kind.setdefault(row.kind or "", [0, 0])
        counts[0] += is_right(Task(row.kind or "", prompt="", completion="", answer=row.answer or ""), text)
        counts[1] += 1
    right = sum(counts[0] for counts in by_kind.values())
    return {
        "rows": len(rows),
        "right": right,
        "share": right / len(rows),
        "by_kind": dict(sorted(by_kind.items())),
    }


def describe(prompt_set: PromptSet) -> Mapping[str, Any]:
    """The set as the report shows it; of the errors, the first few."""
    return {
        "rows": len(prompt_set.rows),
        "available_rows": prompt_set.available,
        "errors": len(prompt_set.errors),
        "first_errors": list(islice(prompt_set.errors, 5)),
        "prompt_tokens": sum(map(len, prompt_set.prompts)),
    }
