"""Rows to token ids: text, messages or a template, through the tokenizer's chat template.

A row that cannot be rendered gets an error text instead of ids; the other rows go on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from orthrus_core.errors import ConfigError, RequestError
from pipelines.checkpoint import load_tokenizer
from pipelines.generate.columns import MAX_NEW_TOKENS, PROMPT_IDS, ROW, ROW_ERROR, SHARD, UNIT, TableLayout
from pipelines.generate.config import GenerateConfig, PromptConfig
from pipelines.storage_config import use_storage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def needed_columns(config: GenerateConfig) -> dict[str, str]:
    """Columns that prompts, ids and per-row options are made of: name to kind (text, list or any).

    Raises:
        ConfigError: the template does not parse.
    """
    prompt = config.input.prompt
    if prompt.column is not None:
        needed = {prompt.column: "text"}
    elif prompt.messages is not None:
        needed = {prompt.messages: "list"}
    else:
        needed = dict.fromkeys(template_columns(prompt.template or ""), "any")
    for name in (config.input.id_column, config.sampling.columns.max_new_tokens):
        if name is not None:
            needed.setdefault(name, "any")
    return needed


def template_columns(template: str) -> list[str]:
    """Names of the columns that a Jinja template uses.

    Raises:
        ConfigError: the template does not parse.
    """
    try:
        environment = _environment()
        return sorted(
            meta.find_undeclared_variables(environment.parse(template)) - environment.globals.keys()
        )
    except TemplateSyntaxError as error:
        raise ConfigError(f"input.prompt.template does not parse: {error}") from None


class PromptRenderer:
    """Turns rows into token ids; one for each process."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", prompt: PromptConfig, max_context: int):
        """Check that prompt and tokenizer fit together.

        Raises:
            ConfigError: chat is asked for and the tokenizer has no chat template.
        """
        if prompt.chat and tokenizer.chat_template is None:
            raise ConfigError(
                "input.prompt.chat is true, but the tokenizer has no chat template; set it to false"
            )
        self._tokenizer = tokenizer
        self._prompt = prompt
        self._max_context = max_context
        self._template: Template | None = None
        if prompt.template is not None:
            self._template = _environment().from_string(prompt.template)

    def text(self, row: Mapping[str, Any]) -> str:
        """The text that is tokenized for a row.

        Raises:
            RequestError: null, of the wrong type, or a template that fails on this row.
        """
        prompt = self._prompt
        if prompt.messages is not None:
            return self._chat(_checked_messages(row[prompt.messages], prompt.messages))
        if self._template is not None:
            content = self._fill(row)
        else:
            content = _checked_text(row[prompt.column or ""], prompt.column or "")
        return self._chat([{"role": "user", "content": content}]) if prompt.chat else content

    def ids(self, text: str) -> list[int]:
        """Token ids of a rendered text.

        Raises:
            RequestError: un-encodable text, no tokens, or no room for a completion.
        """
        try:
            ids = self._tokenizer.encode(text, add_special_tokens=not self._prompt.chat)
        except (UnicodeEncodeError, TypeError):
            raise RequestError("prompt has text that cannot be encoded as UTF-8") from None
        if not ids:
            raise RequestError("prompt has no tokens")
        if len(ids) >= self._max_context:
            raise RequestError(f"prompt has {len(ids)} tokens, decode.max_context is {self._max_context}")
        return ids

    def decode(self, ids: list[int]) -> str:
        """Token ids as text, special tokens shown."""
        return str(self._tokenizer.decode(ids, clean_up_tokenization_spaces=False))

    def _fill(self, row: Mapping[str, Any]) -> str:
        assert self._template is not None
        try:
            return self._template.render(row)
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            raise RequestError(f"input.prompt.template fails: {type(error).__name__}: {error}") from None

    def _chat(self, messages: list[dict[str, Any]]) -> str:
        if self._prompt.system is not None and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self._prompt.system}, *messages]
        try:
            text = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **self._prompt.template_args
            )
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise RequestError(f"chat template fails: {type(error).__name__}: {error}") from None
        return str(text)


@dataclass(frozen=True)
class RenderedRow:
    """What a row brings to the engine; `prompt_ids` is None exactly where there is an error."""

    id: str
    prompt_ids: list[int] | None
    max_new_tokens: int | None
    error: str | None


def render_unit(
    table: pa.Table, config: GenerateConfig, tokenizer_path: str, layout: TableLayout
) -> pa.Table:
    """Render every row of a unit; the dataset stage between reading and generating.

    Args:
        table: as `source.read_unit` makes it.
    Returns:
        Columns: id, the carried ones, SHARD, UNIT, ROW_ERROR (string, null if fine), PROMPT_IDS
        (list<int32>, null on error), MAX_NEW_TOKENS (int32).
    """
    use_storage(config.storage)
    renderer = _renderer(tokenizer_path, config.input.prompt.model_dump_json(), config.decode.max_context)
    rendered = render_rows(table, renderer, config)
    columns: dict[str, Any] = {"id": pa.array([row.id for row in rendered], pa.string())}
    columns |= {name: table.column(name) for name in (*layout.carried.names, SHARD, UNIT)}
    columns[ROW_ERROR] = pa.array([row.error for row in rendered], pa.string())
    columns[PROMPT_IDS] = pa.array([row.prompt_ids for row in rendered], pa.list_(pa.int32()))
    columns[MAX_NEW_TOKENS] = pa.array([row.max_new_tokens for row in rendered], pa.int32())
    return pa.table(columns)


def render_rows(table: pa.Table, renderer: PromptRenderer, config: GenerateConfig) -> list[RenderedRow]:
    """Render the rows of a table as `source.read_unit` makes it."""
    errors = table.column(ROW_ERROR).to_pylist()
    names = [*needed_columns(config), SHARD, ROW]
    columns = {name: _values(table.column(name), name, errors) for name in names}
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    return [_render_row(row, error, renderer, config) for row, error in zip(rows, errors, strict=True)]


def _render_row(
    row: Mapping[str, Any], error: str | None, renderer: PromptRenderer, config: GenerateConfig
) -> RenderedRow:
    own_id = f"{row[SHARD]}:{row[ROW]}"
    try:
        if error is not None:
            raise RequestError(error)
        own_id = _row_id(row, own_id, config.input.id_column)
        limit = _max_new_tokens(row, config)
        return RenderedRow(own_id, renderer.ids(renderer.text(row)), limit, None)
    except RequestError as fault:
        return RenderedRow(own_id, None, None, str(fault))


@lru_cache(maxsize=1)
def _renderer(path: str, prompt_json: str, max_context: int) -> PromptRenderer:
    """One renderer for all units that a worker process reads; loading a tokenizer takes about a second."""
    return PromptRenderer(load_tokenizer(path), PromptConfig.model_validate_json(prompt_json), max_context)


def _environment() -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)


def _values(column: pa.ChunkedArray, name: str, errors: list[str | None]) -> list[Any]:
    """A column as Python values; text that is not UTF-8 becomes None with an error, in place."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        pass
    values: list[Any] = []
    for index, scalar in enumerate(column):
        try:
            values.append(scalar.as_py())
        except UnicodeDecodeError:
            values.append(None)
            errors[index] = errors[index] or f"column {name} is not valid UTF-8"
    return values


def _row_id(row: Mapping[str, Any], default: str, id_column: str | None) -> str:
    if id_column is None:
        return default
    if row[id_column] is None:
        raise RequestError(f"input.id_column {id_column} is null")
    return str(row[id_column])


def _max_new_tokens(row: Mapping[str, Any], config: GenerateConfig) -> int:
    name = config.sampling.columns.max_new_tokens
    value = None if name is None else row[name]
    if value is None:
        return config.sampling.max_new_tokens
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
        raise RequestError(f"column {name} must be a whole number >= 1, got {value!r:.60}")
    return value


def _checked_text(value: Any, name: str) -> str:
    if value is None:
        raise RequestError(f"prompt column {name} is null")
    if not isinstance(value, str):
        raise RequestError(f"prompt column {name} must be text, got {type(value).__name__}")
    return value


def _checked_messages(value: Any, name: str) -> list[dict[str, Any]]:
    if value is None:
        raise RequestError(f"messages column {name} is null")
    if not isinstance(value, list) or not value:
        raise RequestError(f"messages column {name} must be a list of at least one message")
    for number, message in enumerate(value):
        for key in ("role", "content"):
            if not isinstance(message, dict) or not isinstance(message.get(key), str):
                raise RequestError(f"messages column {name}: message {number} has no text {key}")
    return [{key: cell for key, cell in message.items() if cell is not None} for message in value]
