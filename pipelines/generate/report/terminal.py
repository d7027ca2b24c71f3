"""What a terminal shows: the plan of a dry run, and the figures of a run at its end."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from pipelines.command.wording import count_of
from pipelines.generate.report.verdict import drafting_note, duplicates_note, lookup_note, prompt_note
from pipelines.storage.files import is_local

if TYPE_CHECKING:
    from orthrus_core.readiness.memory import MemoryPlan
    from pipelines.generate.config.job import GenerateConfig
    from pipelines.generate.job.job import Job
    from pipelines.generate.job.preview import Preview
    from pipelines.generate.job.sizes import Sizes

MOST_KINDS = 5  # of errors that are shown


def render_report(job: "Job", report: dict[str, Any]) -> RenderableType:
    """A table of figures, three completions, and how to open the output."""
    return Group(figures_table(report), *_samples(report), _how_to_open(job))


def render_plan(job: "Job", preview: "Preview") -> RenderableType:
    """What a dry run found and what a run would do."""
    plan, config, sizes = job.plan, job.config, preview.sizes
    table = Table(show_header=False, box=None, title="Plan", title_justify="left")
    for name, value in (
        ("input", f"{count_of(len(plan.shards), 'file')}, {count_of(plan.num_rows, 'row')}"),
        (
            "units",
            f"{len(plan.units)} of at most {count_of(config.run.unit_rows, 'row')}, {len(job.units)} to do",
        ),
        ("model", f"{config.model.path} (hash {job.checkpoint.model_hash}){_changes(job)}"),
        ("decode", _engine_line(sizes)),
        (memory_title(config), f"{memory_line(sizes.plan)}; {_room(sizes)}"),
        ("actors", f"{config.run.pool}, {config.run.cpus_per_actor:g} CPUs each"),
        ("carried columns", ", ".join(job.layout.carried.names) or "none"),
        ("functions", ", ".join(f"{name} {code}" for name, code in job.hooks.identity.items()) or "none"),
        ("output", f"{job.ledger.url} ({'new' if job.is_new else 'begun'}), fingerprint {job.fingerprint}"),
    ):
        table.add_row(name, escape(value))
    prompts = [
        Panel(
            escape(row.error or text or ""),
            title=f"prompt of row {escape(row.id)}: "
            + (count_of(len(row.prompt_ids), "token") if row.prompt_ids else "error")
            + (f", {count_of(row.num_turns, 'turn')} more" if row.num_turns else ""),
            title_align="left",
        )
        for text, row in preview.rows
    ]
    return Group(table, *prompts, Text("Dry run: nothing was generated."))


def _changes(job: "Job") -> str:
    model, adapter = job.config.model, job.adapter
    lora = "" if adapter is None else f" with {model.lora} (hash {adapter.model_hash})"
    return lora if model.weights == "auto" else f"{lora}, weights in {model.weights}"


def _engine_line(sizes: "Sizes") -> str:
    decode = sizes.decode
    return (
        f"{decode.mode}, {count_of(decode.max_sequences, 'sequence')} at once, "
        f"{decode.max_context:,} tokens at most; forwards of up to {sizes.rows:,} rows"
    )


def memory_title(config: "GenerateConfig") -> str:
    """Whose memory a plan is about."""
    ranks = config.model.tensor_parallel
    return "memory of an actor" if ranks == 1 else f"memory of each of {ranks} ranks"


def memory_line(plan: "MemoryPlan") -> str:
    """What an engine takes, part by part."""
    parts = ", ".join(f"{name} {decimal(size)}" for name, size in asdict(plan).items() if size)
    return f"{decimal(plan.total)}: {parts}"


def _room(sizes: "Sizes") -> str:
    return "its device is not here" if sizes.left is None else f"{decimal(sizes.left)} may be filled"


def figures_table(report: Mapping[str, Any]) -> Table:
    """The figures of any report.json."""
    run = report["this_run"]
    table = Table(show_header=False, box=None)
    table.add_row("model", Text(report["model"]["path"]))
    table.add_row("time", Text(dates(report)))
    if report["status"] != "done":
        table.add_row(report["status"], Text(report["reason"] or "", style="bold red"))
    for name, value in (
        ("rows", report["rows"]),
        ("errors", report["errors"]),
        ("duplicate ids", duplicates_note(report)),
        ("finish reasons", ", ".join(f"{k} {v}" for k, v in report["finish_reasons"].items())),
        ("prompt tokens", prompt_note(report)),
        ("completion tokens", report["completion_tokens"]),
        ("acceptance length (tokens per step)", _number(report["acceptance_length"])),
        ("tokens per forward", _number(report["tokens_per_forward"])),
        ("lookup", lookup_note(report)),
        ("drafting", drafting_note(report)),
        ("exactness", report["exactness"] or "-"),
        ("audit", audit_line(report["audit"])),
        ("tokens/s, start-up included", _number(run["tokens_per_s"], 1)),
        ("tokens/s inside an engine", _number(run["engine_tokens_per_s"], 1)),
        ("wall time", f"{run['wall_s']:.1f} s"),
        ("of it outside the engine", _percent(run["outside_engine_share"])),
        ("engine idle after loading", _percent(run["idle_when_ready_share"])),
    ):
        if value is not None:
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


def dates(report: Mapping[str, Any]) -> str:
    """When a run began and ended."""
    return f"begun {report['created'] or 'never'}, ended {report['ended']}"


def _samples(report: Mapping[str, Any]) -> list[Panel]:
    """The first completions."""
    panels = []
    for one in report.get("samples", []):
        text = Text.assemble((f"{one['prompt']}\n\n" if one["prompt"] else "", "dim"), one["completion"])
        panels.append(Panel(text, title=f"row {escape(one['id'])}", title_align="left"))
    return panels


def _how_to_open(job: "Job") -> Text:
    url, data = job.ledger.url, job.ledger.data_url
    if is_local(url):
        datasets = f'datasets.load_dataset("{url}")'
    else:  # load_dataset takes neither the URL of a store nor a data card there
        datasets = f'datasets.load_dataset("parquet", data_files="{data}/*.parquet")'
    return Text(
        f"Output: {url}\n"
        f'  pyarrow:  pyarrow.dataset.dataset("{data}").to_table()\n'
        f'  pandas:   pandas.read_parquet("{data}")\n'
        f"  datasets: {datasets}\n"
        f"  figures:  {job.ledger.run_url}/report.json, report.html"
    )


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"
