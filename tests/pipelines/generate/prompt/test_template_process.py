"""Templates that must not get away: each ends in an error, soon, and the next row goes on."""

import datetime
import os

import pytest

from pipelines.generate.prompt.template_process import TemplateProcess, TemplateRowError

pytestmark = pytest.mark.timeout(90)  # a machine with other work may take seconds to start a process


def failure(template: str, **row) -> str:
    process = TemplateProcess(template, limit_s=0.3)
    with pytest.raises(TemplateRowError) as caught:
        process.fill(row)
    return str(caught.value)


@pytest.mark.parametrize(
    "template",
    [
        "{{ a.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ (a|attr('__class__')).mro() }}",
        "{{ a.append(1) }}",
    ],
)
def test_a_template_cannot_reach_out_of_the_sandbox(template):
    assert failure(template, a=[]).startswith(("SecurityError: ", "UndefinedError: "))


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' * 10**9 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ 'a'.ljust(10**9) }}",
        "{% set b = [0] * 10**9 %}",
        "{{ ('a' * 10**6).replace('a', 'b' * 10**6) }}",
    ],
)
def test_a_memory_bomb_is_refused(template):
    assert failure(template) == "needs more than 512 MiB"


def test_a_text_beyond_any_context_is_refused():
    assert (
        failure("{{ 'a' * 5000000 }}") == "makes a text of 5000000 characters, 4000000 more than it is given"
    )


def test_a_huge_range_is_refused():
    assert failure("{% for i in range(10**9) %}{{ i }}{% endfor %}").startswith(
        "OverflowError: Range too big"
    )


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 9 ** (9 ** 9) }}",  # one operation of minutes, without a byte code between
        "{% autoescape 9 ** (9 ** 9) %}{% endautoescape %}",
    ],
)
def test_a_template_that_does_not_end_is_ended(template):
    assert failure(template) == "takes more than 0.3 s; see input.prompt.template_limit_s"


def test_endless_recursion_is_refused():
    assert failure("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}").startswith("RecursionError")


def test_a_null_that_would_be_printed_as_none_is_an_error():
    assert failure("Q: {{ q }}", q=None).startswith("TemplateRuntimeError: it prints a null value")
    assert (
        TemplateProcess("Q: {{ q or '-' }}{% if q is none %}!{% endif %}", 5.0).fill({"q": None}) == "Q: -!"
    )


@pytest.mark.parametrize("name", ["range", "dict", "namespace", "joiner", "cycler", "lipsum", "row"])
def test_a_column_wins_over_what_jinja_has_by_that_name(name):
    assert TemplateProcess(f"{{{{ {name} }}}}", 5.0).fill({name: "mine"}) == "mine"


@pytest.mark.parametrize("name", ["range", "dict", "self"])
def test_a_part_of_jinja_is_not_printed(name):
    assert failure(f"{{{{ {name} }}}}", other=1).startswith("TemplateRuntimeError: it prints a part of Jinja")


def test_columns_of_any_name_are_reached_through_row():
    process = TemplateProcess("{{ row['my col'] }}{{ row['a.b'] }}{{ row['x-y'] }}{{ row['self'] }}", 5.0)
    assert process.fill({"my col": 1, "a.b": 2, "x-y": 3, "self": 4}) == "1234"


def test_values_nested_beyond_all_bounds_cost_their_row():
    nested: list = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(RecursionError):  # the renderer makes an error row of it
        TemplateProcess("{{ a }}", 5.0).fill({"a": nested})


def test_rows_after_a_runaway_one_go_on():
    process = TemplateProcess("{% for i in range(n) %}{% for j in range(n) %}{% endfor %}{% endfor %}x", 0.3)
    assert process.fill({"n": 1}) == "x"
    with pytest.raises(TemplateRowError, match="takes more than"):
        process.fill({"n": 99_999})
    assert process.fill({"n": 2}) == "x"


def test_a_killed_process_costs_one_row_only():
    process = TemplateProcess("{{ a }}", 5.0)
    assert process.fill({"a": 1}) == "1"
    os.kill(process._process.pid, 9)
    with pytest.raises(TemplateRowError, match="ended with code -9"):
        process.fill({"a": 2})
    assert process.fill({"a": 3}) == "3"


CHAT_BOMBS = {
    "{{ 1 // 0 }}": "ZeroDivisionError: ",
    "{{ 1e308 ** 2 }}": "OverflowError: ",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}": "RecursionError: ",
    "{{ messages[0].content * 10**9 }}": "needs more than 512 MiB",
    "{{ 'x' * 10**9 }}": "needs more than 512 MiB",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}": "takes more than ",
    "{{ messages[1].content }}": "UndefinedError: ",
    "{{ raise_exception('roles') }}": "TemplateError: roles",
    "{% bad": "TemplateSyntaxError: ",
}


@pytest.mark.parametrize("template", CHAT_BOMBS)
def test_a_chat_template_has_the_same_limits(template, short_chat):
    with pytest.raises(TemplateRowError) as caught:
        short_chat.fill(chat(template))
    assert str(caught.value).startswith(CHAT_BOMBS[template])


def test_rows_after_a_runaway_chat_template_go_on(short_chat):
    assert short_chat.fill(chat("{{ messages[0].content }}!")) == "hello!"


@pytest.fixture(scope="module")
def short_chat():
    return TemplateProcess(None, 0.3)


def chat(template: str) -> dict:
    return {"chat_template": template, "conversations": [[{"role": "user", "content": "hello"}]]}


def test_values_of_all_kinds_and_odd_text_come_through():
    import pandas as pd

    process = TemplateProcess("{{ a }}|{{ d }}|{{ t }}|{{ m.k[0] }}", 5.0)
    row = {"a": "\ud800", "d": datetime.date(2024, 1, 2), "t": pd.Timestamp(5), "m": {"k": [b"x"]}}
    assert process.fill(row) == "\ud800|2024-01-02|1970-01-01 00:00:00.000000005|b'x'"
