"""Docs made from the models: they hold every key, and the files in docs/ are what the models say now."""

from pathlib import Path

import pytest
from pydantic import BaseModel, Field

from pipelines.read.columns import IDENTITY, OPTIONAL, RESULT
from pipelines.schema import REPAIR, _options, columns_page, config_page, job_models, main, sections

DOCS = Path(__file__).parents[2] / "docs"


class Inner(BaseModel):
    """The inner one."""

    size: int = Field(3, ge=1, lt=9, description="how big | or not")


class Outer(BaseModel):
    """The outer one."""

    name: str = Field(description="A name.")
    choice: bool | None = Field(None, description="Yes or no.")
    values: tuple[float, ...] = Field((0.5,), min_length=1, description="Some.")
    inner: Inner = Field(default_factory=Inner, description="Inside.")
    by_name: dict[str, Inner] = Field(description="Many.")


@pytest.mark.parametrize(("topic", "page"), [("config", config_page), ("columns", columns_page)])
def test_the_docs_are_what_the_models_say(topic, page):
    stored = (DOCS / f"{topic}.md").read_text()
    assert stored == page(), f"docs/{topic}.md is out of date: {REPAIR.format(topic=topic)}"


def test_a_key_has_type_default_bounds_and_meaning():
    assert _options(Inner) == [("`size`", "int", "`3`", ">= 1, < 9", "how big | or not.")]
    assert _options(Outer) == [
        ("`name`", "text", "required", "", "A name."),
        ("`choice`", "bool or null", "`null`", "", "Yes or no."),
        ("`values`", "list of float", "`[0.5]`", "at least 1", "Some."),
    ]


def test_sections_within_sections_are_found_by_their_path():
    assert [(path, model) for path, model, _ in sections(Outer)] == [
        ("", Outer),
        ("inner", Inner),
        ("by_name.NAME", Inner),
    ]


def test_every_section_of_every_job_is_in_the_page():
    page = config_page()
    for job, models in job_models().items():
        for model in models:
            for path, one, _ in sections(model):
                if path and _options(one):
                    assert f"### {job}: `{path}`" in page


def test_every_column_is_in_the_page():
    page = columns_page()
    for column in (*IDENTITY, *RESULT, *OPTIONAL):
        assert f"| `{column.name}` | {column.type} | {column.meaning} |" in page


def test_the_command_prints_one_job(capsys):
    assert main(["config", "--job", "plan"]) == 0
    text = capsys.readouterr().out
    assert "## plan" in text
    assert "## generate" not in text
    assert "`trial_s` | float | `60.0` | > 0 |" in text
