"""An evaluation as a page with plots."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from pipelines.evaluate.plots import acceptance_plot, exactness_plot, speed_plot
from pipelines.evaluate.rows import acceptance_rows, answer_rows, exactness_rows, speed_rows
from pipelines.generate.report.page import page, pairs, section, table

Report = Mapping[str, Any]


def evaluation_page(report: Report) -> str:
    """Return the page of a report as `pipelines.evaluate.job.evaluate` writes it; all text is escaped."""
    title = f"Evaluation of {report['model']['path']}"
    parts = [
        f"<header><h1>{escape(title)}</h1><p>{escape(_when(report))}</p></header>",
        _left_out(report["left_out"]),
        _part("Exactness: rows with the same tokens", exactness_rows(report), exactness_plot(report)),
        _part("Right answers", answer_rows(report), ""),
        _part("Acceptance", acceptance_rows(report), acceptance_plot(report)),
        _part("Speed", speed_rows(report["speed"]), speed_plot(report)),
        section("How it was made", pairs(_facts(report))),
    ]
    return page(title, "\n".join(part for part in parts if part))


def _part(title: str, rows: Sequence[Sequence[str]], plot: str) -> str:
    """A plot above the table of its figures; nothing where nothing was measured."""
    head, *lines = rows
    if not lines:
        return ""
    cells = [[escape(cell) for cell in line] for line in lines]
    texts = sum(not name.startswith(">") for name in head)
    names = [escape(name.removeprefix(">")) for name in head]
    return section(title, plot + table(names, cells, text_columns=texts))


def _left_out(lines: Sequence[str]) -> str:
    listed = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return section("Left out", f"<ul>{listed}</ul>") if listed else ""


def _when(report: Report) -> str:
    ended = report["ended"]
    return f"Begun {report['created']}, " + (f"ended {ended}." if ended else "not ended: more was asked for.")


def _facts(report: Report) -> list[tuple[str, str]]:
    machine, config = report["machine"], report["config"]
    facts = [
        *(("model " + name, value) for name, value in report["model"].items()),
        *machine.items(),
        *(
            (f"{name}: rows", f"{one['rows']} of {one['available_rows']}")
            for name, one in report["prompt_sets"].items()
        ),
        ("max_new_tokens", config["sampling"]["max_new_tokens"]),
        *report["versions"].items(),
    ]
    return [(name, escape(str(value))) for name, value in facts if value is not None]
