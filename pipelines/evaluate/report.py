"""What an evaluation shows in a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipelines.evaluate.tables import new_table, show_number, show_spread

SHOWN_POSITIONS = 8


def render_evaluation(report: Mapping[str, Any], path: str) -> RenderableType:
    """Tables of a report as `pipelines.evaluate.job.evaluate` returns it.

    Args:
        path: where it was written.
    """
    machine = report["machine"]
    parts: list[RenderableType] = [
        Text(f"{report['model']['path']} on {machine['device']}, {machine['threads']} threads"),
        *_sets(report),
    ]
    if report["texts"]:
        parts += [_texts(report), *_differences(report), _acceptance(report)]
    if report["speed"]:
        first = report["speed"][0]
        title = f"Speed in {first['dtype']}: median (lowest-highest) of {first['rounds']} rounds"
        parts.append(speed_table(title, report["speed"]))
    if report["replay"]:
        parts.append(_replay(report["replay"]))
    if report["memory"]:
        parts.append(_memory(report["memory"]))
    if report["job"]:
        parts.append(_job(report["job"]))
    return Group(*parts, Text(f"Everything measured: {path}"))


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


def _texts(report: Mapping[str, Any]) -> Table:
    table = new_table(
        "Answers of AR decoding, and consensus decoding beside it",
        *("prompts", "dtype", ">right", ">same tokens", ">same logprobs", "engine says"),
    )
    for text in report["texts"]:
        exactness, answers = text["exactness"], text["answers"]
        table.add_row(
            text["prompt_set"],
            text["dtype"],
            f"{answers['right']} ({100 * answers['share']:.1f} %)" if answers else "-",
            f"{exactness['identical_tokens']} of {exactness['rows']}",
            f"{exactness['identical_logprobs']} of {exactness['rows']}",
            exactness["level"],
        )
    return table


def _differences(report: Mapping[str, Any]) -> list[Text]:
    return [
        Text(
            f"{text['prompt_set']} {text['dtype']} differs: row {d['row']}, token {d['position']}: "
            f"consensus {d['consensus_id']}, AR {d['ar_id']}, smallest logit gap {d['ar_min_logit_gap']}"
        )
        for text in report["texts"]
        for d in text["exactness"]["differences"]
    ]


def _acceptance(report: Mapping[str, Any]) -> Table:
    table = new_table(
        "Consensus decoding; accepted drafts in % of the blocks that long",
        *("prompts", "dtype", ">tokens/step", ">tokens/forward", f">at 1 to {SHOWN_POSITIONS}"),
    )
    for text in report["texts"]:
        acceptance = text["acceptance"]
        table.add_row(
            text["prompt_set"],
            text["dtype"],
            show_number(acceptance["acceptance_length"]),
            show_number(acceptance["tokens_per_forward"]),
            " ".join(f"{100 * share:.0f}" for share in acceptance["accepted_by_position"][:SHOWN_POSITIONS]),
        )
    return table


def speed_table(title: str, loads: Sequence[Mapping[str, Any]]) -> Table:
    """Lines of every load; consensus decoding is the first of each."""
    table = new_table(title, *("", ">T", ">tokens/s", ">consensus / this", ">same text"))
    for load in loads:
        left_out, length = load["rows_without_room"], load.get("acceptance_length")
        table.add_row(
            f"{load['prompt_set']}, batch {load['batch']}, {load['rows']} rows"
            + (f" ({left_out} left out: too long)" if left_out else "")
            + (f", {length:.2f} tokens/step" if length else "")
        )
        for system in load["systems"]:
            own = system is load["systems"][0]
            table.add_row(
                f"  {system['name']}",
                str(system["token_budget"] or "-"),
                show_spread(system["tokens_per_s"], 0),
                "" if own else show_spread(system["consensus_ratio"], 2),
                "" if own else f"{system['rows_as_consensus']} of {load['rows']}",
            )
    return table


def _replay(replay: Mapping[str, Any]) -> Table:
    return speed_table(
        f"Random weights, {replay['parameters'] / 1e6:.1f} M parameters, FP32. REPLAYED acceptance, for "
        "speed only: the draft forward runs,\nthen its proposals are replaced so that a full block gives "
        f"{replay['tokens_per_step_asked']:.2f} tokens per step; no head drafts like this",
        replay["loads"],
    )


def _memory(memory: Mapping[str, Any]) -> Table:
    table = new_table(
        f"Memory, {memory['batch']} sequences, {memory['rows']} rows, each mode in a process of its own",
        *("mode", ">peak RSS", ">of it loading", ">cache", ">cache bytes/token"),
    )
    for mode in memory["modes"]:
        sizes = (mode["peak_bytes"], mode["loaded_bytes"], mode["cache_bytes"])
        mib = [f"{size / 2**20:.1f} MiB" for size in sizes]
        table.add_row(mode["mode"], *mib, f"{mode['cache_bytes_per_token']:,}")
    return table


def _job(job: Mapping[str, Any]) -> Text:
    share = job["outside_engine_share"]
    return Text(
        f"Generate job on {job['prompt_set']}: {job['rows']} rows, {job['completion_tokens']} tokens in "
        f"{job['wall_s']:.1f} s = {show_number(job['tokens_per_s'], 0)} tokens/s; outside the engine "
        f"{'-' if share is None else f'{100 * share:.0f} %'} "
        f"(Ray's start {job['ray_start_s']:.1f} s, loading the model {job['model_load_s']:.1f} s)"
    )
