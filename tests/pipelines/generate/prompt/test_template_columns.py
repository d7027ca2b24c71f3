"""Columns that a template reads, and its other names."""

import pytest

from orthrus_core.errors import ConfigError
from pipelines.generate.prompt.template_columns import template_columns


def reads(template: str, *available: str) -> list[str]:
    return template_columns(template).among(available)


def test_free_names_are_columns():
    template = "{% for x in items %}{{ x }}{% endfor %}{% set y = 1 %}{{ y }}{{ name }}"
    assert reads(template) == ["items", "name"]


def test_a_template_that_does_not_parse_is_a_config_error():
    with pytest.raises(ConfigError, match=r"input\.prompt\.template does not parse"):
        template_columns("{{ a ")


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "bomb",
    [
        "{{ 10 ** 10 ** 9 }}",
        "{{ ('a' * 10 ** 11) | length }}",
        "{% autoescape 10 ** 10 ** 9 %}{% endautoescape %}",
    ],
)
def test_constants_are_not_evaluated_where_nothing_limits_that(bomb):
    assert reads(bomb + "{{ name }}") == ["name"]


@pytest.mark.parametrize(
    "template", ["{{ a | nope }}", f"{{{{ {'1' * 5000} }}}}", "{% for a in b %}" * 25 + "{% endfor %}" * 25]
)
def test_what_only_a_compiler_finds_is_a_config_error_of_one_line(template):
    with pytest.raises(ConfigError, match=r"^input\.prompt\.template does not parse: [^\n]+$"):
        template_columns(template)


def test_jinjas_own_names_are_columns_where_there_are_such():
    assert reads("{{ range(3) }}{{ dict }}", "a") == []
    assert reads("{{ range(3) }}{{ dict }}", "a", "dict") == ["dict"]


def test_row_reads_what_it_is_asked_for_by_name():
    assert reads("{{ row['my col'] }}{{ row.b }}", "a", "b", "my col") == ["my col", "b"]


@pytest.mark.parametrize(
    "use", ["{{ row | tojson }}", "{{ row.items() }}", "{% for c in 'ab' %}{{ row[c] }}{% endfor %}"]
)
def test_row_used_otherwise_reads_all_columns(use):
    assert reads(use, "a", "b") == ["a", "b"]


def test_a_column_called_row_is_a_column():
    assert reads("{{ row['x'] }}{{ row.y }}", "a", "row") == ["row"]


def test_a_variable_called_row_is_no_column():
    assert reads("{% for row in rows %}{{ row.x }}{% endfor %}", "rows") == ["rows"]


def test_a_name_that_is_no_column_is_a_config_error():
    with pytest.raises(ConfigError, match="no column my col; there are a, b"):
        reads("{{ row['my col'] }}", "a", "b")
