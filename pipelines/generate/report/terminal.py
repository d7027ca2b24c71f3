"""What a terminal shows: the plan of a dry run, and the figures of a run at its end."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from pipelines.storage import open_file

if TYPE_CHECKING:
    from pipelines.generate.job import Job
    from pipelines.generate.preview import Preview

MOST_KINDS = 5  # of errors that are shown


def render_report(job: "Job", report: dict[str, Any]) -> RenderableType:
    """A table of figures, three completions, and how to open the output."""
    return Group(figures_table(report), *_samples(job), _how_to_open(job))


def render_plan(job: "Job", preview: "Preview") -> RenderableType:
    """What a dry run found and what a run would do."""
    plan, config = job.plan, job.config
    table = Table(show_header=False, box=None, title="Plan", title_justify="left")
    for name, value in (
        ("input", f"{len(plan.shards)} files, {plan.num_rows} rows"),
        ("units", f"{len(plan.units)} of at most {config.run.unit_rows} rows, {len(job.units)} to do"),
        ("model", f"{config.model.path} (hash {job.checkpoint.model_hash})"),
        ("decode", f"{config.decode.mode}, {config.decode.max_sequences} sequences at once"),
        ("actors", f"{config.run.pool}, {config.run.cpus_per_actor:g} CPUs each"),
        ("carried columns", ", ".join(job.layout.carried.names) or "none"),
        ("output", f"{job.ledger.url} ({'new' if job.is_new else 'begun'}), fingerprint {job.fingerprint}"),
    ):
        table.add_row(name, escape(value))
    prompts = [
        Panel(
            escape(row.error or text or ""),
            title=f"prompt of row {escape(row.id)}: "
            + (f"{len(row.prompt_ids)} tokens" if row.prompt_ids else "error"),
            title_align="left",
        )
        for text, row in preview.rows
    ]
    return Group(table, *prompts, Text("Dry run: nothing was generated."))


def figures_table(report: Mapping[str, Any]) -> Table:
    """The figures of any report.json."""
    run = report["this_run"]
    table = Table(show_header=False, box=None)
    if report["status"] != "done":
        table.add_row(report["status"], Text(report["reason"] or "", style="bold red"))
    for name, value in (
        ("rows", report["rows"]),
        ("errors", report["errors"]),
        ("finish reasons", ", ".join(f"{k} {v}" for k, v in report["finish_reasons"].items())),
        ("prompt tokens", report["prompt_tokens"]),
        ("completion tokens", report["completion_tokens"]),
        ("acceptance length (tokens per step)", _number(report["acceptance_length"])),
        ("tokens per forward", _number(report["tokens_per_forward"])),
        ("exactness", report["exactness"]),
        ("audit", audit_line(report["audit"])),
        ("tokens/s, start-up included", _number(run["tokens_per_s"], 1)),
        ("tokens/s inside an engine", _number(run["engine_tokens_per_s"], 1)),
        ("wall time", f"{run['wall_s']:.1f} s"),
        ("of it outside the engine", _percent(run["outside_engine_share"])),
        ("engine idle after loading", _percent(run["idle_when_ready_share"])),
    ):
        table.add_row(name, Text(str(value)))
    if cost := report.get("cost"):
        table.add_row("cost", cost_line(cost))
    for kind, entry in list(report["error_kinds"].items())[:MOST_KINDS]:
        example = entry["examples"][0]["id"] if entry["examples"] else ""
        table.add_row("error", Text(f"{entry['count']} x {kind} (row {example})"))
    if run.get("drafter_alarm"):
        table.add_row("drafter alarm", "drafts hardly ever stood; see drafter_alarm in the README")
    return table


def audit_line(audit: Mapping[str, Any]) -> str:
    """The audit in one line."""
    if not audit.get("selected"):
        return str(audit.get("note", "no row was chosen"))
    text = f"{audit['identical']} of {audit['compared']} rows identical to plain AR"
    for name, words in (("skipped", "not comparable"), ("lost", "not decoded again")):
        if audit.get(name):
            text += f", {audit[name]} {words}"
    if speed := audit.get("speed_ratio"):
        text += f"; consensus / AR {speed['median']:.2f} ({speed['min']:.2f}-{speed['max']:.2f})"
    return text


def cost_line(cost: Mapping[str, Any]) -> str:
    """The cost in one line."""
    hours = f"{cost['actor_hours']:,.1f}" if cost["actor_hours"] >= 10 else f"{cost['actor_hours']:.3g}"
    return (
        f"{cost['per_million_tokens']:.2f} {cost['currency']} per million completion tokens "
        f"({hours} actor hours at {cost['hour_price']:g})"
    )


def _samples(job: "Job", count: int = 3) -> list[Panel]:
    """The first completions of the first file."""
    with open_file(job.ledger.unit_url(job.plan.units[0])) as handle:
        rows = next(pq.ParquetFile(handle).iter_batches(batch_size=64)).to_pylist()
    prompt = job.config.input.prompt
    panels = []
    for row in [row for row in rows if row["error"] is None][:count]:
        asked = row.get(prompt.column or prompt.messages or "")
        if isinstance(asked, list) and asked:
            asked = asked[-1]["content"]
        text = (Text(f"{asked}\n\n", style="dim") if asked else Text()) + Text(row["completion"])
        panels.append(Panel(text, title=f"row {escape(row['id'])}", title_align="left"))
    return panels


def _how_to_open(job: "Job") -> Text:
    url, data = job.ledger.url, job.ledger.data_url
    return Text(
        f"Output: {url}\n"
        f'  pyarrow:  pyarrow.dataset.dataset("{data}").to_table()\n'
        f'  pandas:   pandas.read_parquet("{data}")\n'
        f'  datasets: datasets.load_dataset("{url}")\n'
        f"  figures:  {job.ledger.run_url}/report.json, report.html"
    )


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"
