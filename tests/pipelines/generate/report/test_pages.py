"""The page, the data card and the terminal: what they show, and that no text of a data set can break them."""

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from rich.console import Console

from pipelines.generate.ledger.ledger import Ledger
from pipelines.generate.report.card import data_card
from pipelines.generate.report.figures import RunTimes, run_report
from pipelines.generate.report.html import html_report
from pipelines.generate.report.samples import first_completions
from pipelines.generate.report.store import partial_report
from pipelines.generate.report.terminal import audit_line, figures_table, render_report
from pipelines.generate.write.unit_file import write_unit_file
from tests.pipelines.conftest import job_of
from tests.pipelines.generate.report.conftest import NASTY, facts, shown, summary, sums_of

VOID = {"meta", "br", "img"}


class Balanced(HTMLParser):
    """Fails where tags do not close in order."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.text = [], set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parsed(page) -> Balanced:
    parser = Balanced()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


@pytest.fixture
def page(report):
    return html_report(report)


def test_the_page_has_a_section_for_every_question(page):
    text = " ".join(parsed(page).text)
    for title in ("Speed over time", "By position", "By completion length", "By domain", "Finish reasons"):
        assert title in text
    for title in ("Errors", "Audit", "Where the time went", "How it was made", "Inputs", "Versions"):
        assert title in text
    assert "prompt is null" in text


def test_the_page_needs_nothing_from_outside_and_no_script(page):
    assert "script" not in parsed(page).tags
    links = re.findall(r'(?:src|href)="([^"]*)"|url\(([^)]*)\)', page)
    assert all(link.startswith("#") for pair in links for link in pair if link)


def test_plots_are_svg_whose_ids_are_their_own_and_whose_colours_are_the_pages(page):
    plots = re.findall(r"<svg.*?</svg>", page, re.S)
    assert len(plots) == 3
    ids = [name for plot in plots for name in re.findall(r'\bid="([^"]*)"', plot)]
    assert len(ids) == len(set(ids))
    for plot in plots:
        ElementTree.fromstring(plot)
        assert "var(--ink)" in plot
        assert "var(--blue)" in plot


def test_hostile_text_is_escaped_everywhere(ugly):
    page = html_report(ugly)
    assert "script" not in parsed(page).tags
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 4  # reason, group, error and mismatch


def test_a_failed_run_shows_its_status_and_reason(ugly):
    text = " ".join(parsed(html_report(ugly)).text)
    assert "failed" in text
    assert NASTY.strip() in text


def test_a_run_without_steps_or_units_has_a_page(tree):
    job = job_of(tree)
    page = html_report(run_report(job, sums_of(), RunTimes()))
    assert "Nothing was drafted" in page
    parsed(page)


def test_an_ar_run_has_a_page(tree):
    tree["decode"]["mode"] = "autoregressive"
    job = job_of(tree)
    one = facts() | {"positions": {"drafted": [], "accepted": []}}
    page = html_report(run_report(job, sums_of(one), RunTimes()))
    assert "nothing to audit" in page
    assert "By position" not in page


def test_a_partial_report_says_what_it_covers(job):
    times = RunTimes(wall_s=5.0)
    times.add(summary("a", 1.0, 2.0))
    report = partial_report(job, times, "interrupted", "SIGTERM", exit_code=3)
    assert (report["status"], report["exit_code"], report["reason"]) == ("interrupted", 3, "SIGTERM")
    assert (report["rows"], report["rows_planned"], report["covers"]) == (4, 17, "all sessions")
    parsed(html_report(report))


@pytest.fixture
def resumed(job):
    """A job whose first unit was done by an earlier session, whose file says so."""
    unit = job.plan.units[0]
    write_unit_file(job.ledger.unit_url(unit), pa.table({"id": ["a", "b", "c", "d"]}), facts())
    return replace(job, units=job.plan.units[1:])


def test_a_partial_report_adds_the_units_of_earlier_sessions(resumed):
    times = RunTimes(wall_s=5.0)
    times.add(summary("a", 1.0, 2.0, number=1))
    report = partial_report(resumed, times, "interrupted", "SIGTERM", exit_code=3)
    assert (report["rows"], report["units"], report["completion_tokens"]) == (8, 2, 60)
    assert (report["this_run"]["rows"], report["covers"]) == (4, "all sessions")


def test_a_partial_report_leaves_a_removed_unit_out_without_a_word(resumed, caplog):
    Path(resumed.ledger.unit_url(resumed.plan.units[0])).unlink()
    report = partial_report(resumed, RunTimes(wall_s=5.0), "failed", "one unit was damaged")
    assert (report["rows"], report["covers"], caplog.messages) == (0, "all sessions", [])


def test_a_run_of_error_rows_alone_is_not_called_exact(job, manifest):
    errors = facts() | {"counts": {"rows": 4, "errors": 4, "finish_error": 4}}
    report = run_report(job, sums_of(errors), RunTimes(), manifest)
    assert report["exactness"] is None
    assert re.search(r"exactness +- *\n", shown(figures_table(report)))
    assert "| exactness | - |" in data_card(job, report)


@pytest.mark.parametrize("damage", [b"", b"PAR1 and then nothing"])
def test_a_partial_report_covers_its_session_where_an_earlier_file_is_damaged(resumed, damage):
    Path(resumed.ledger.unit_url(resumed.plan.units[0])).write_bytes(damage)
    times = RunTimes(wall_s=5.0)
    times.add(summary("a", 1.0, 2.0))
    report = partial_report(resumed, times, "failed", "disk full")
    assert (report["rows"], report["covers"]) == (4, "this session")
    assert "Figures of this session only." in html_report(report)


def test_the_card_begins_with_a_header_that_names_the_data_files(job, report):
    card = data_card(job, report)
    header = yaml.safe_load(card.split("---")[1])
    assert header["configs"] == [
        {"config_name": "default", "data_files": [{"split": "train", "path": "data/*.parquet"}]}
    ]
    assert header["size_categories"] == ["n<1K"]


def test_the_card_has_every_column_the_figures_and_how_to_load(job, report):
    card = data_card(job, report)
    for name in job.layout.output.names:
        assert f"| {name} | " in card
    for words in ("16", "datasets.load_dataset", "pandas.read_parquet", "pyarrow.dataset", "sampling.seed"):
        assert words in card
    assert job.checkpoint.model_hash in card
    assert "plain autoregressive decoding" in card


def test_the_card_of_a_mismatch_says_so(job, report):
    report |= {"status": "mismatch", "reason": "1 of 8 rows differ"}
    assert "**mismatch**: 1 of 8 rows differ" in data_card(job, report)


def test_the_terminal_takes_no_markup_from_the_data(ugly):
    ugly["reason"] = "[bold]brackets[/wrong]"
    console = Console(width=120)
    with console.capture() as screen:
        console.print(figures_table(ugly))
    assert "[bold]brackets[/wrong]" in screen.get()


def test_the_audit_in_one_line():
    audit = {"selected": 10, "compared": 8, "identical": 8, "skipped": 1, "lost": 1}
    audit["speed_ratio"] = {"median": 1.5, "min": 1.25, "max": 1.75, "pairs": 3}
    assert audit_line(audit) == (
        "8 of 8 rows identical to plain AR, 1 not comparable, 1 not decoded again; "
        "consensus / AR 1.50 (1.25-1.75)"
    )
    assert audit_line({"note": "switched off"}) == "switched off"


SAMPLE = {"id": "r1", "prompt": "Add 1 and 2.", "completion": "1 + 2 = <b>3</b>"}


def test_the_page_begins_with_model_dates_and_completions(report):
    report |= {"samples": [SAMPLE], "created": "2026-11-22T01:02:03Z"}
    page = html_report(report)
    text = " ".join(parsed(page).text)
    order = [
        report["model"]["path"],
        "begun 2026-11-22T01:02:03Z",
        "rows",
        "1 + 2 = <b>3</b>",
        "Speed over time",
    ]
    assert [text.index(words) for words in order] == sorted(text.index(words) for words in order)
    assert "&lt;b&gt;3" in page


def test_the_terminal_shows_model_dates_and_completions_apart_from_their_prompts(job, report):
    report |= {"samples": [SAMPLE]}
    text = shown(render_report(job, report))
    assert text.index(report["model"]["path"]) < text.index("rows")
    assert f"ended {report['ended']}" in text
    assert text.index("Add 1 and 2.") < text.index("1 + 2 = <b>3</b>")
    console = Console(width=80, force_terminal=True, color_system="standard")
    with console.capture() as screen:
        console.print(render_report(job, report))
    assert "\x1b[2m1 + 2" not in screen.get()


def test_the_first_completions_are_those_of_the_first_unit_that_is_there(job):
    rows = {one.name: pa.nulls(2, one.type) for one in job.layout.output}
    rows |= {"id": pa.array(["a", "b"]), "error": pa.array(["too long", None])}
    rows |= {"completion": pa.array([None, "x" * 2000]), "prompt": pa.array(["p", "q"])}
    write_unit_file(job.ledger.unit_url(job.plan.units[1]), job.layout.to_file(pa.table(rows)), facts())
    [one] = first_completions(job)
    assert (one["id"], one["prompt"], len(one["completion"])) == ("b", "q", 1502)


def test_a_damaged_file_costs_the_completions_of_the_report_alone(job, caplog):
    Path(job.ledger.data_url).mkdir(parents=True)
    Path(job.ledger.unit_url(job.plan.units[0])).write_bytes(b"PAR1")
    assert first_completions(job) == []
    assert "no completions in the report" in caplog.text


@pytest.mark.parametrize(
    ("url", "call"),
    [
        ("/tmp/out", 'datasets.load_dataset("/tmp/out")'),
        ("s3://b/out", 'datasets.load_dataset("parquet", data_files="s3://b/out/data/*.parquet")'),
    ],
)
def test_the_call_that_is_shown_for_datasets_is_one_that_works_there(job, report, url, call):
    assert call in shown(render_report(replace(job, ledger=Ledger(url)), report))


def test_one_of_a_thing_is_no_plural(job, report):
    report["inputs"] |= {"files": 1, "rows": 1}
    assert "1 file, 1 row, " in html_report(report)
    assert "1 input file and" in data_card(job, report)
