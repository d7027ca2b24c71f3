"""What a run did: figures for report.json, a data card, and what a terminal shows at the end."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from pipelines.generate.columns import IDENTITY, OPTIONAL, RESULT
from pipelines.storage import open_file

if TYPE_CHECKING:
    from pipelines.generate.job import Job, Preview


@dataclass
class RunTimes:
    """Where the time of this run went, in seconds; earlier runs on the same output are not in it.

    Attributes:
        wall_s: from the start of Ray to the last check.
        ray_s: until Ray was there.
        engines: the last report of each actor, by its name, with the seconds it took to load (load_s) and the
            seconds from then to its last unit (ready_s).
        counts: sums over the units committed by this run.
    """

    wall_s: float = 0.0
    ray_s: float = 0.0
    engines: dict[str, dict[str, Any]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, summary: dict[str, Any]) -> None:
        """Take in a committed unit."""
        known = self.engines.get(summary["actor"])
        if known is None or known["busy_s"] <= summary["engine"]["busy_s"]:
            own = {name: summary[name] for name in ("load_s", "ready_s")}
            self.engines[summary["actor"]] = {**summary["engine"], **own}
        _add(self.counts, summary["counts"])


def run_report(
    job: "Job", unit_counts: Sequence[dict[str, int]], times: RunTimes, engine: dict[str, Any] | None
) -> dict[str, Any]:
    """Figures of a run.

    Args:
        unit_counts: the counts of every unit's file, of earlier runs too.
        times: this run only.
        engine: constant facts of the engine, from the manifest.
    """
    counts: dict[str, int] = {}
    for unit in unit_counts:
        _add(counts, unit)
    return {
        "status": "done",
        "output": job.ledger.url,
        "fingerprint": job.fingerprint,
        "rows": counts.get("rows", 0),
        "errors": counts.get("errors", 0),
        "finish_reasons": {k[7:]: v for k, v in sorted(counts.items()) if k.startswith("finish_")},
        "prompt_tokens": counts.get("prompt_tokens", 0),
        "completion_tokens": counts.get("completion_tokens", 0),
        "acceptance_length": _ratio(counts.get("step_tokens", 0), counts.get("steps", 0)),
        "tokens_per_forward": _ratio(counts.get("step_tokens", 0), counts.get("forwards", 0)),
        "exactness": (engine or {}).get("exactness"),
        "engine": engine,
        "this_run": _this_run(times),
    }


def _this_run(times: RunTimes) -> dict[str, Any]:
    busy_s = sum(engine["busy_s"] for engine in times.engines.values())
    ready_s = sum(engine["ready_s"] for engine in times.engines.values())
    tokens = times.counts.get("completion_tokens", 0)
    count = len(times.engines)
    return {
        "rows": times.counts.get("rows", 0),
        "completion_tokens": tokens,
        "wall_s": times.wall_s,
        "ray_start_s": times.ray_s,
        "actors": count,
        "model_load_s": max((engine["load_s"] for engine in times.engines.values()), default=0.0),
        "engine_s": busy_s,
        "tokens_per_s": _ratio(tokens, times.wall_s),
        "engine_tokens_per_s": _ratio(tokens * count, busy_s),
        "outside_engine_share": 1.0 - busy_s / (count * times.wall_s) if count else None,
        "idle_when_ready_share": 1.0 - busy_s / ready_s if ready_s else None,
        "accepted_by_position": _by_position(times.engines.values(), "accepted_by_position"),
        "drafted_by_position": _by_position(times.engines.values(), "drafted_by_position"),
        "drafter_alarm": any(engine.get("drafter_alarm", False) for engine in times.engines.values()),
    }


def render_report(job: "Job", report: dict[str, Any]) -> RenderableType:
    """A table of figures, three completions, and how to open the output."""
    return Group(_figures(report), *_samples(job), _how_to_open(job))


def render_plan(job: "Job", preview: "Preview") -> RenderableType:
    """What a dry run found and what a run would do."""
    plan, config = job.plan, job.config
    table = Table(show_header=False, box=None, title="Plan", title_justify="left")
    for name, value in (
        ("input", f"{len(plan.shards)} files, {plan.num_rows} rows"),
        ("units", f"{len(plan.units)} of at most {config.run.unit_rows} rows, {len(job.units)} to do"),
        ("model", f"{config.model.path} (hash {job.checkpoint.model_hash})"),
        ("decode", f"{config.decode.mode}, {config.decode.max_sequences} sequences at once"),
        ("actors", f"{config.run.actors}, {config.run.cpus_per_actor:g} CPUs each"),
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


def data_card(job: "Job", report: dict[str, Any]) -> str:
    """README.md of the output: tells `datasets` which files are data, and people what they hold."""
    described = {column.name: column.meaning for column in (*IDENTITY, *RESULT, *OPTIONAL)}
    rows = "\n".join(
        f"| {field.name} | {field.type} | {described.get(field.name, 'carried from the input')} |"
        for field in job.layout.output
    )
    return f"""---
configs:
- config_name: default
  data_files: data/*.parquet
---

{report["rows"]} rows, {report["errors"]} of them errors, {report["completion_tokens"]} completion tokens,
written by the model `{job.config.model.path}`, exactness: {report["exactness"]}.
`_run/manifest.json` says with which options, versions and input files.

| column | type | meaning |
|---|---|---|
{rows}
"""


def _figures(report: dict[str, Any]) -> Table:
    run = report["this_run"]
    table = Table(show_header=False, box=None)
    for name, value in (
        ("rows", report["rows"]),
        ("errors", report["errors"]),
        ("finish reasons", ", ".join(f"{k} {v}" for k, v in report["finish_reasons"].items())),
        ("prompt tokens", report["prompt_tokens"]),
        ("completion tokens", report["completion_tokens"]),
        ("acceptance length (tokens per step)", _number(report["acceptance_length"])),
        ("tokens per forward", _number(report["tokens_per_forward"])),
        ("exactness", report["exactness"]),
        ("tokens/s, start-up included", _number(run["tokens_per_s"], 1)),
        ("tokens/s inside an engine", _number(run["engine_tokens_per_s"], 1)),
        ("wall time", f"{run['wall_s']:.1f} s"),
        ("of it outside the engine", _percent(run["outside_engine_share"])),
        ("engine idle after loading", _percent(run["idle_when_ready_share"])),
    ):
        table.add_row(name, str(value))
    if run.get("drafter_alarm"):
        table.add_row("drafter alarm", "drafts hardly ever stood; see drafter_alarm in the README")
    return table


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
        f"  figures:  {job.ledger.run_url}/report.json"
    )


def _add(sums: dict[str, int], counts: dict[str, int]) -> None:
    for name, value in counts.items():
        sums[name] = sums.get(name, 0) + value


def _ratio(count: float, of: float) -> float | None:
    return count / of if of else None


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"


def _by_position(engines: Any, name: str) -> list[int]:
    lists = [engine.get(name) or [] for engine in engines]
    return [
        sum(values[i] for values in lists if i < len(values)) for i in range(max(map(len, lists), default=0))
    ]
