"""Rows to requests: the dataset stage between reading and generating.

A row that cannot be rendered gets an error text instead of ids; the other rows go on.
"""

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import pyarrow as pa

from orthrus_core.errors import RequestError
from pipelines.checkpoint.directory import load_tokenizer
from pipelines.generate.config.job import GenerateConfig
from pipelines.generate.config.prompt import PromptConfig
from pipelines.generate.hooks.hook import Hook
from pipelines.generate.hooks.tables import map_input
from pipelines.generate.prompt.renderer import LongPromptError, Prompt, PromptRenderer
from pipelines.generate.prompt.row_params import ParamColumns, RowParams
from pipelines.generate.prompt.template_columns import TemplateColumns, template_columns
from pipelines.generate.write.repair import Repair
from pipelines.read.columns import (
    FILE,
    HIDDEN,
    PARAMS,
    PLACE,
    PREFILL,
    PROMPT,
    PROMPT_IDS,
    PROMPT_TOKENS,
    ROW,
    ROW_ERROR,
    SAMPLES,
    SHARD,
    TRUNCATED,
    UNIT,
    TableLayout,
)
from pipelines.read.own_rows import own_rows
from pipelines.storage.config import use_storage


def needed_columns(config: GenerateConfig) -> dict[str, str]:
    """Columns that prompts, ids and per-row options are made of: name to kind (text, messages or any).

    Raises:
        ConfigError: the template does not parse.
    """
    prompt = config.input.prompt
    if prompt.column is not None:
        needed = {prompt.column: "text"}
    elif prompt.messages is not None:
        needed = {prompt.messages: "messages"}
    else:
        needed = {}
    templates = [column for one in _templates(prompt) for column in one.required]
    options = [*prompt.row_columns, *config.sampling.columns.given.values()]
    for name in (*templates, config.input.id_column, *options):
        if name is not None:
            needed.setdefault(name, "any")
    return needed


def read_columns(config: GenerateConfig, available: Sequence[str]) -> list[str]:
    """Columns that prompts, ids and per-row options are made of, of an input with these.

    Raises:
        ConfigError: the template asks for one that is none of them.
    """
    more = [column for one in _templates(config.input.prompt) for column in one.among(available)]
    return [*dict.fromkeys([*needed_columns(config), *more])]


def _templates(prompt: PromptConfig) -> list[TemplateColumns]:
    return [template_columns(text, option) for option, text in prompt.templates.items()]


@dataclass(frozen=True)
class RenderedRow:
    """What a row brings to the engine; `prompt_ids` is None exactly where there is an error.

    Attributes:
        params: its own sampling options; None where these are wrong.
        truncated_tokens: cut from the prompt.
        long_tokens: of a prompt that is an error because it has so many; else 0.
        prefill: the beginning of the answer, in the prompt.
        prompt: it without its ids, for the turns behind it.
    """

    id: str
    prompt_ids: list[int] | None
    params: RowParams | None
    error: str | None
    truncated_tokens: int = 0
    long_tokens: int = 0
    prefill: str = ""
    prompt: Prompt | None = None

    @property
    def num_turns(self) -> int:
        """Turns of the user behind the prompt."""
        return len(self.prompt.content.turns) if self.prompt and self.prompt.content else 0


def render_unit(
    table: pa.Table,
    config: GenerateConfig,
    tokenizer_path: str,
    layout: TableLayout,
    repair: Repair | None = None,
    hook: Hook | None = None,
) -> pa.Table:
    """Render every row of a unit; the dataset stage between reading and generating.

    Args:
        table: as `source.read_unit` makes it.
        repair: only the rows that it asks for are rendered.
        hook: the rows go through it first.
    Returns:
        Columns: id, the carried ones, SHARD, UNIT, PLACE, ROW_ERROR (string, null if fine), PROMPT_IDS
        (list<int32>, null on error), TRUNCATED, PROMPT_TOKENS, PREFILL (string, null if the completion is to
        be written without), PROMPT (only with turns), PARAMS, SAMPLES.
    """
    use_storage(config.storage)
    renderer = _renderer(tokenizer_path, config.input.prompt.model_dump_json(), config.decode.max_context)
    count = table.num_rows
    table = table.append_column(PLACE, pa.array(range(count), pa.int32()))
    wanted: dict[int, list[int] | None] = dict.fromkeys(range(count))
    if repair is not None:
        wanted = repair.samples(table.column(SHARD)[0].as_py(), table.column(UNIT)[0].as_py(), count)
        table = table.take(pa.array(sorted(wanted), pa.int64()))
    table = map_input(table, hook)
    rendered = render_rows(table, renderer, config)
    samples = [_samples(row, wanted[place]) for row, place in zip(rendered, sorted(wanted), strict=True)]
    columns: dict[str, Any] = {"id": pa.array([row.id for row in rendered], pa.string())}
    columns |= {layout.within(name): table.column(name) for name in layout.carried.names}
    columns |= {name: table.column(name) for name in (SHARD, UNIT, PLACE)}
    columns[ROW_ERROR] = pa.array([row.error for row in rendered], pa.string())
    columns[PROMPT_IDS] = pa.array([row.prompt_ids for row in rendered], pa.list_(pa.int32()))
    columns[TRUNCATED] = pa.array([row.truncated_tokens for row in rendered], pa.int32())
    columns[PROMPT_TOKENS] = pa.array([row.long_tokens for row in rendered], pa.int32())
    shown = config.output.prefill
    columns[PREFILL] = pa.array(
        [row.prefill if shown and row.error is None else None for row in rendered], pa.string()
    )
    if config.input.prompt.turns:
        columns[PROMPT] = pa.array([row.prompt and pickle.dumps(row.prompt) for row in rendered], pa.binary())
    columns[PARAMS] = pa.array([row.params and row.params.overrides for row in rendered], pa.string())
    columns[SAMPLES] = pa.array(samples, pa.list_(pa.int32()))
    return pa.table(columns)


def render_rows(table: pa.Table, renderer: PromptRenderer, config: GenerateConfig) -> list[RenderedRow]:
    """Render the rows of a table as `source.read_unit` makes it."""
    errors = table.column(ROW_ERROR).to_pylist()
    available = [name for name in table.column_names if not name.startswith(HIDDEN)]
    names = [*read_columns(config, available), FILE, ROW]
    rows = own_rows(table, names, errors, structured=config.input.prompt.structured)
    params = ParamColumns(config.sampling)
    return [
        _render_row(row, error, renderer, params, config.input.id_column)
        for row, error in zip(rows, errors, strict=True)
    ]


def _render_row(
    row: Mapping[str, Any],
    error: str | None,
    renderer: PromptRenderer,
    columns: ParamColumns,
    id_column: str | None,
) -> RenderedRow:
    own_id, params = f"{row[FILE]}:{row[ROW]}", None
    try:
        if error is not None:
            raise RequestError(error)
        own_id = _row_id(row, own_id, id_column)
        params = columns.of(row)
        prompt = renderer.prompt(row, params.max_new_tokens)
        return RenderedRow(
            own_id,
            prompt.ids,
            params,
            None,
            prompt.truncated_tokens,
            prefill=prompt.prefill,
            prompt=replace(prompt, ids=[]),
        )
    except LongPromptError as fault:
        return RenderedRow(own_id, None, params, str(fault), long_tokens=fault.prompt_tokens)
    except RequestError as fault:
        return RenderedRow(own_id, None, params, str(fault))


def _samples(row: RenderedRow, wanted: list[int] | None) -> list[int]:
    """Numbers of the completions to make; of a row that has none, of its error rows."""
    if wanted is not None:
        return wanted
    return [0] if row.error is not None or row.params is None else list(range(row.params.n))


@lru_cache(maxsize=1)
def _renderer(path: str, prompt_json: str, max_context: int) -> PromptRenderer:
    """One renderer for all units that a worker process reads; loading a tokenizer takes about a second."""
    return PromptRenderer(load_tokenizer(path), PromptConfig.model_validate_json(prompt_json), max_context)


def _row_id(row: Mapping[str, Any], default: str, id_column: str | None) -> str:
    if id_column is None:
        return default
    if row[id_column] is None:
        raise RequestError(f"input.id_column {id_column} is null")
    return str(row[id_column])
