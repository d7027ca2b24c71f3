"""Rows to token ids, and the rows that cannot become any."""

import pyarrow as pa
import pytest

from orthrus_core.errors import ConfigError, RequestError
from pipelines.checkpoint.directory import load_tokenizer
from pipelines.generate.config.job import GenerateConfig
from pipelines.generate.config.prompt import PromptConfig
from pipelines.generate.prompt.content import Content
from pipelines.generate.prompt.renderer import PromptRenderer
from pipelines.generate.prompt.unit import needed_columns, render_rows, render_unit
from pipelines.read.columns import (
    FILE,
    PARAMS,
    PLACE,
    PREFILL,
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

CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def tokenizer(model_dir):
    return load_tokenizer(str(model_dir))


@pytest.fixture
def renderer(tokenizer, chat_process):
    def build(max_context=256, **prompt):
        return PromptRenderer(tokenizer, PromptConfig(**prompt), max_context, chat_process)

    return build


@pytest.fixture
def config(tree):
    def build(prompt, *, id_column=None, limit_column=None):
        tree["input"] |= {"prompt": prompt, "id_column": id_column}
        tree["sampling"]["columns"] = {"max_new_tokens": limit_column}
        return GenerateConfig.model_validate(tree)

    return build


def unit(columns: dict, errors=None) -> pa.Table:
    """A table as the source makes it."""
    table = pa.table(columns)
    count = table.num_rows
    hidden = {
        SHARD: pa.array([2] * count, pa.int32()),
        UNIT: pa.array([0] * count, pa.int32()),
        FILE: pa.array([2] * count, pa.int32()),
        ROW: pa.array(range(10, 10 + count), pa.int64()),
        ROW_ERROR: pa.array(errors or [None] * count, pa.string()),
    }
    for name, values in hidden.items():
        table = table.append_column(name, values)
    return table


def refusal(renderer, row) -> str:
    with pytest.raises(RequestError) as caught:
        renderer.text(row)
    return str(caught.value)


def test_a_text_column_is_one_user_message(renderer):
    assert renderer(column="q").text({"q": "hello"}) == CHAT.format("hello")


def test_without_chat_the_text_is_as_it_is(renderer):
    assert renderer(column="q", chat=False).text({"q": "hello"}) == "hello"


def test_a_system_message_comes_first(renderer):
    text = renderer(column="q", system="Be brief.").text({"q": "hello"})
    assert text == "<|im_start|>system\nBe brief.<|im_end|>\n" + CHAT.format("hello")


def test_a_rows_own_system_message_is_kept(renderer):
    messages = [{"role": "system", "content": "own"}, {"role": "user", "content": "hello"}]
    text = renderer(messages="m", system="Be brief.").text({"m": messages})
    assert "own" in text
    assert "Be brief." not in text


def test_a_template_sees_the_columns(renderer):
    text = renderer(template="{{ a }} + {{ b.c }}", chat=False).text({"a": 1, "b": {"c": 2}})
    assert text == "1 + 2"


def test_needed_columns_are_those_of_prompt_id_and_options(config):
    built = config({"template": "{{ a }}{{ b }}"}, id_column="key", limit_column="limit")
    assert needed_columns(built) == {"a": "any", "b": "any", "key": "any", "limit": "any"}


@pytest.mark.parametrize(
    ("prompt", "row", "reason"),
    [
        ({"column": "q"}, {"q": None}, "prompt column q is null"),
        ({"column": "q"}, {"q": 5}, "prompt column q must be text, got int"),
        ({"messages": "m"}, {"m": None}, "messages column m is null"),
        ({"messages": "m"}, {"m": []}, "messages column m must be a list of at least one message"),
        ({"messages": "m"}, {"m": [{"role": "user"}]}, "messages column m: message 0 has no text content"),
        ({"template": "{{ a.b }}"}, {"a": {}}, "input.prompt.template fails: UndefinedError: "),
        ({"template": "{{ 1 / a }}"}, {"a": 0}, "input.prompt.template fails: ZeroDivisionError: "),
        ({"template": "{{ a.__class__.mro() }}"}, {"a": 0}, "input.prompt.template fails: SecurityError: "),
    ],
)
def test_a_bad_row_says_why(renderer, prompt, row, reason):
    assert refusal(renderer(**prompt), row).startswith(reason)


def test_a_chat_template_that_refuses_a_row_makes_an_error_row(renderer, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", "{{ raise_exception('roles must alternate') }}")
    text = refusal(renderer(column="q"), {"q": "x"})
    assert text == "chat template fails: TemplateError: roles must alternate"


def test_a_tokenizer_without_chat_template_needs_chat_false(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", None)
    with pytest.raises(ConfigError, match="the tokenizer has no chat template; set it to false"):
        PromptRenderer(tokenizer, PromptConfig(column="q"), 256)
    PromptRenderer(tokenizer, PromptConfig(column="q", chat=False), 256)


def test_ids_are_those_of_the_tokenizer(renderer, tokenizer):
    ids = renderer(column="q").ids(Content(CHAT.format("hello")))
    assert tokenizer.decode(ids) == CHAT.format("hello")


def test_a_prompt_must_leave_room_for_one_token(renderer):
    row = {"q": "one two three"}
    ids = renderer(column="q", chat=False).prompt(row, 99).ids
    assert renderer(len(ids) + 1, column="q", chat=False).prompt(row, 99).ids == ids
    with pytest.raises(
        RequestError, match=f"prompt has {len(ids)} tokens, decode.max_context is {len(ids)}$"
    ):
        renderer(len(ids), column="q", chat=False).prompt(row, 99)


def test_a_prompt_must_leave_the_room_that_the_config_asks_for(renderer):
    row = {"q": "one two three"}
    count = len(renderer(column="q", chat=False).prompt(row, 9).ids)
    assert renderer(count + 5, column="q", chat=False, room=5).prompt(row, 9)
    with pytest.raises(RequestError, match=f"decode.max_context is {count + 4}, input.prompt.room 5"):
        renderer(count + 4, column="q", chat=False, room=5).prompt(row, 9)


def test_empty_text_without_chat_has_no_tokens(renderer):
    with pytest.raises(RequestError, match="prompt has no tokens"):
        renderer(column="q", chat=False).ids(Content(""))


def test_text_that_is_no_unicode_is_an_error(renderer):
    with pytest.raises(RequestError, match="cannot be encoded as UTF-8"):
        renderer(column="q", chat=False).ids(Content("\ud800"))


def test_a_text_too_long_for_any_tokens_is_refused_before_it_is_tokenized(renderer, tokenizer, monkeypatch):
    monkeypatch.setattr(type(tokenizer), "encode", None)
    longest = max(map(len, tokenizer.get_vocab()))
    with pytest.raises(
        RequestError, match=f"^prompt has 1000001 characters, and .* 256 .* hold at most {256 * longest}$"
    ):
        renderer(column="q", chat=False).prompt({"q": "a" * 1_000_001}, 9)


def test_a_prompt_nested_beyond_all_bounds_is_an_error_row(renderer):
    nested: list = []
    for _ in range(100_000):
        nested = [nested]
    for prompt, row in (
        ({"template": "{{ a }}"}, {"a": nested}),
        ({"messages": "m"}, {"m": [{"role": "user", "content": "x", "extra": nested}]}),
    ):
        with pytest.raises(RequestError, match="nested too deeply"):
            renderer(**prompt).prompt(row, 9)


def test_good_rows_go_on_beside_bad_ones(renderer, config):
    table = unit({"q": ["fine", None, "late"]}, errors=[None, None, "line is not json"])
    rows = render_rows(table, renderer(column="q"), config({"column": "q"}))
    assert [row.error for row in rows] == [None, "prompt column q is null", "line is not json"]
    assert [row.prompt_ids is None for row in rows] == [False, True, True]
    assert [row.id for row in rows] == ["2:10", "2:11", "2:12"]


def test_ids_come_from_the_id_column_as_text(renderer, config):
    rows = render_rows(
        unit({"q": ["a", "b"], "key": [7, None]}),
        renderer(column="q"),
        config({"column": "q"}, id_column="key"),
    )
    assert [(row.id, row.error) for row in rows] == [("7", None), ("2:11", "input.id_column key is null")]


def test_a_rows_own_limit_replaces_the_default_where_it_is_not_null(renderer, config):
    table = unit({"q": ["a"] * 4, "limit": [5, None, 0, -1]})
    rows = render_rows(table, renderer(column="q"), config({"column": "q"}, limit_column="limit"))
    assert [row.params and row.params.max_new_tokens for row in rows] == [5, 24, None, None]
    assert rows[2].error == "column limit: max_new_tokens must be >= 1, got 0"


def test_bytes_that_are_not_utf8_spoil_only_their_row(renderer, config):
    rows = render_rows(unit({"q": bad_text()}), renderer(column="q"), config({"column": "q"}))
    assert [row.error for row in rows] == [None, "column q is not valid UTF-8"]


def bad_text() -> pa.Array:
    """A string array whose second value is not UTF-8, as a careless writer makes it."""
    raw = pa.array([b"fine", b"\xff\xfe"])
    return pa.Array.from_buffers(pa.string(), 2, raw.buffers())


def test_a_rendered_unit_has_what_the_next_stages_need(config, model_dir):
    table = unit({"q": ["a", None], "extra": [1, 2]})
    layout = TableLayout(pa.schema([("extra", pa.int64())]), ("q", "extra"))
    rendered = render_unit(table, config({"column": "q"}), str(model_dir), layout)
    hidden = [SHARD, UNIT, PLACE, ROW_ERROR, PROMPT_IDS, TRUNCATED, PROMPT_TOKENS, PREFILL, PARAMS, SAMPLES]
    assert rendered.column_names == ["id", "extra", *hidden]
    assert rendered.schema.field(PROMPT_IDS).type == pa.list_(pa.int32())
    assert rendered.column(PROMPT_IDS).null_count == 1


@pytest.mark.parametrize(("shown", "prefills"), [(True, ["So", "So", None]), (False, [None, None, None])])
def test_a_rendered_unit_brings_prefills_that_are_to_be_shown(tree, model_dir, shown, prefills):
    tree["input"] |= {"prompt": {"column": "q", "prefill": "So"}, "id_column": None}
    tree["output"] |= {"prefill": shown}
    config = GenerateConfig.model_validate(tree)
    rendered = render_unit(
        unit({"q": ["a", "b", None]}), config, str(model_dir), TableLayout(pa.schema([]), ())
    )
    assert rendered.column(PREFILL).to_pylist() == prefills


@pytest.mark.parametrize(
    ("cell", "turns"), [(["Why?", ""], ("Why?", "")), ('["Why?"]', ("Why?",)), (None, ()), ([], ())]
)
def test_a_column_has_a_rows_own_turns_as_a_list_or_its_json_text(renderer, config, cell, turns):
    prompt = {"column": "q", "turns": "t"}
    [row] = render_rows(unit({"q": ["a"], "t": [cell]}), renderer(**prompt), config(prompt))
    assert row.prompt.content.turns == turns
    assert row.num_turns == len(turns)


@pytest.mark.parametrize("cell", [["Why?", None], "Why?", "{}"])
def test_turns_that_are_no_list_of_texts_make_an_error_row(renderer, config, cell):
    prompt = {"column": "q", "turns": "t"}
    [row] = render_rows(unit({"q": ["a"], "t": [cell]}), renderer(**prompt), config(prompt))
    assert row.error.startswith("input.prompt.turns column t ")
    assert row.prompt_ids is None


def test_a_turn_whose_template_fails_makes_an_error_row_before_anything_is_generated(renderer, config):
    prompt = {"column": "q", "turns": ["So?", "{{ t }}"]}
    [row] = render_rows(unit({"q": ["a"], "t": [None]}), renderer(**prompt), config(prompt))
    assert row.error.startswith("input.prompt.turns[1] fails: ")


def test_needed_columns_are_those_of_all_options_of_a_prompt(config):
    prompt = {"messages": "m", "tools": "t", "documents": "d", "row_args": {"x": "y"}, "prefill": "{{ p }}"}
    prompt["turns"] = ["{{ a }}", "{{ u }}"]
    assert needed_columns(config(prompt)) == {"m": "messages"} | dict.fromkeys("pytdau", "any")
    assert needed_columns(config(prompt | {"turns": "b"})) == {"m": "messages"} | dict.fromkeys(
        "pytdb", "any"
    )


def test_a_rendered_unit_asks_for_the_samples_of_each_row(tree, model_dir):
    tree["input"] |= {"prompt": {"column": "q"}, "id_column": None}
    tree["sampling"] |= {"n": 2, "columns": {"n": "k", "seed": "s"}}
    table = unit({"q": ["a", "b", None, "d"], "k": [None, 3, 3, 0], "s": [7, None, None, None]})
    config = GenerateConfig.model_validate(tree)
    rendered = render_unit(table, config, str(model_dir), TableLayout(pa.schema([]), ()))
    assert rendered.column(SAMPLES).to_pylist() == [[0, 1], [0, 1, 2], [0], [0]]
    assert rendered.column(PARAMS).to_pylist() == ['{"seed": 7}', None, None, None]
    assert rendered.column(ROW_ERROR)[3].as_py() == "column k: n must be >= 1, got 0"


def test_a_template_reads_the_columns_that_are_there(renderer, config):
    prompt = {"template": "{{ range }}-{{ row['my col'] }}-{{ dict(x=1).x }}", "chat": False}
    table = unit({"range": ["a", "b"], "my col": [1, 2]})
    rows = render_rows(table, renderer(**prompt), config(prompt))
    texts = [renderer(**prompt).decode(row.prompt_ids) for row in rows]
    assert texts == ["a-1-1", "b-2-1"]


def test_a_whole_row_has_no_hidden_columns(renderer, config):
    prompt = {"template": "{{ row.items() | list }}", "chat": False}
    [row] = render_rows(unit({"b": [1], "a": [None]}), renderer(**prompt), config(prompt))
    assert renderer(**prompt).decode(row.prompt_ids) == "[('b', 1), ('a', None)]"


def test_chat_template_arguments_reach_the_template(renderer, tokenizer, monkeypatch):
    thinking = "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}"
    monkeypatch.setattr(tokenizer, "chat_template", tokenizer.chat_template + thinking)
    assert renderer(column="q").text({"q": "x"}) == CHAT.format("x")
    text = renderer(column="q", template_args={"enable_thinking": False}).text({"q": "x"})
    assert text == CHAT.format("x") + "<think></think>"


@pytest.mark.parametrize("overlong", ["error", "truncate_left"])
def test_a_prompt_that_is_too_long_says_how_many_tokens_it_has(config, model_dir, overlong):
    prompts = unit({"q": ["Add one " * 100, None]})
    options = {"column": "q", "overlong": overlong, "system": "Be brief. " * 100}
    rendered = render_unit(prompts, config(options), str(model_dir), TableLayout(pa.schema([]), ("q",)))
    count, none = rendered.column(PROMPT_TOKENS).to_pylist()
    assert f"prompt has {count} tokens" in rendered.column(ROW_ERROR)[0].as_py()
    assert (count > 256, none) == (True, 0)
