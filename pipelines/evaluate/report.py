"""What an evaluation shows in a terminal."""

from collections.abc import Mapping
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pipelines.evaluate.rows import Rows, acceptance_rows, answer_rows, exactness_rows, speed_rows


def render_evaluation(report: Mapping[str, Any], path: str) -> RenderableType:
    """Tables of a report as `pipelines.evaluate.job.evaluate` returns it.

    Args:
        path: where it was written.
    """
    machine = report["machine"]
    parts: list[RenderableType] = [
        Text(f"{report['model']['path']} on {machine['device']}, {machine['threads']} threads"),
        *_sets(report),
        *(Text(f"left out: {line}") for line in report["left_out"]),
        *_filled("The same tokens? Median (lowest-highest) over the rows that part", exactness_rows(report)),
        *_differences(report),
        *_filled("Right answers", answer_rows(report)),
        *_filled("Acceptance, whole blocks where there is a head", acceptance_rows(report)),
        *_filled("Speed: median (lowest-highest) of the rounds", speed_rows(report["speed"])),
    ]
    if report["replay"]:
        parts += _replay(report["replay"])
    if report["memory"]:
        parts.append(_memory(report["memory"]))
    return Group(*parts, Text(f"Everything measured: {path}"))


def _filled(title: str, rows: Rows) -> list[Table]:
    """A table of lines; none where there is only the head."""
    head, *lines = rows
    table = _new_table(title, *head)
    for line in lines:
        table.add_row(*map(escape, line))
    return [table] if lines else []


def _sets(report: Mapping[str, Any]) -> list[Text]:
    return [
        Text(
            f"{name}: {facts['rows']} of {facts['available_rows']} rows"
            + (
                f", {facts['errors']} more unusable, first {facts['first_errors'][0]}"
                if facts["errors"]
                else ""
            )
        )
        for name, facts in report["prompt_sets"].items()
    ]


def _differences(report: Mapping[str, Any]) -> list[Text]:
    return [
        Text(
            f"{text['prompt_set']} {text['dtype']} differs: row {d['row']}, token {d['position']}: "
            f"consensus {d['token_id']}, AR {d['reference_id']}, logit gap {d['logit_gap']}"
        )
        for text in report["texts"]
        for d in text["exactness"]["differences"]
    ]


def _replay(replay: Mapping[str, Any]) -> list[Table]:
    return _filled(
        f"Random weights, {replay['parameters'] / 1e6:.1f} M parameters, FP32. REPLAYED acceptance, for "
        "speed only: the draft forward runs,\nthen its proposals are replaced so that a full block gives "
        f"{replay['tokens_per_step_asked']:.2f} tokens per step; no head drafts like this",
        speed_rows(replay["loads"]),
    )


def _memory(memory: Mapping[str, Any]) -> Table:
    table = _new_table(
        f"Memory, {memory['batch']} sequences, {memory['rows']} rows, each mode in a process of its own",
        *("mode", ">peak RSS", ">of it loading", ">cache", ">cache bytes/token"),
    )
    for mode in memory["modes"]:
        sizes = (mode["peak_bytes"], mode["loaded_bytes"], mode["cache_bytes"])
        mib = [f"{size / 2**20:.1f} MiB" for size in sizes]
        table.add_row(mode["mode"], *mib, f"{mode['cache_bytes_per_token']:,}")
    return table


def _new_table(title: str, *columns: str) -> Table:
    """An empty table; a name that begins with > is right-aligned."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1))
    for name in columns:
        justify: Literal["left", "right"] = "right" if name.startswith(">") else "left"
        table.add_column(escape(name.removeprefix(">")), justify=justify, no_wrap=True)
    return table
