"""The figures of an evaluation as lines of text, the same for terminal, page and README.

The first line has the names of the columns; one that begins with > holds numbers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Report = Mapping[str, Any]
Rows = list[list[str]]

SHOWN_POSITIONS = 8


def exactness_rows(report: Report) -> Rows:
    """Consensus beside AR, then every system beside itself at another batch."""
    head = ["compared", "prompts", "dtype", "temp.", "batch"]
    rows = [[*head, ">same tokens", ">95 % within", ">parts at", ">gap there"]]
    for text in report["texts"]:
        rows.append(_compared("consensus / AR", text, str(text["batch"]), text["exactness"]))
    for one in report["itself"]:
        first, last = one["batches"]
        rows.append(
            _compared(f"{one['system'].removesuffix(' generate')} / itself", one, f"{first}, {last}", one)
        )
    return rows


def _compared(what: str, run: Report, batch: str, found: Report) -> list[str]:
    share, position, gap = found["share"], found["first_position"], found["logit_gap"]
    return [
        *(what, run["prompt_set"], run["dtype"], f"{run['temperature']:g}", batch),
        f"{found['identical_tokens']} of {found['rows']}",
        f"{100 * share['low']:.1f}-{100 * share['high']:.1f}",
        "-" if position is None else _spread(position, 0),
        "-" if gap is None else _spread(gap, 2),
    ]


def answer_rows(report: Report) -> Rows:
    """Right answers of both modes."""
    rows = [["prompts", "dtype", "temp.", "batch", ">right, AR", ">right, consensus", ">graded alike"]]
    for text in report["texts"]:
        if answers := text["answers"]:
            count = answers["rows"]
            right = f"{answers['right']} of {count} ({100 * answers['share']:.1f} %)"
            rows.append(
                [
                    *_run(text),
                    right,
                    f"{answers['consensus_right']} of {count}",
                    f"{answers['graded_alike']} of {count}",
                ]
            )
    return rows


def acceptance_rows(report: Report) -> Rows:
    """Tokens per step and per forward, of all tokens together and by question; accepted drafts."""
    head = ["prompts", "dtype", "temp.", "batch", ">tok/step", ">tok/forward", ">by question", ">by question"]
    rows = [[*head, ">% accepted by position"]]
    for text in report["texts"]:
        found = text["acceptance"]
        figures = [*_ratios(found), *_ratios(found["per_question"])]
        positions = found["accepted_by_position"][:SHOWN_POSITIONS]
        rows.append([*_run(text), *figures, " ".join(f"{100 * share:.0f}" for share in positions)])
    return rows


def _run(text: Report) -> list[str]:
    return [text["prompt_set"], text["dtype"], f"{text['temperature']:g}", str(text["batch"])]


def _ratios(found: Report) -> list[str]:
    return [_number(found["acceptance_length"]), _number(found["tokens_per_forward"])]


def speed_rows(loads: Sequence[Report]) -> Rows:
    """Every system under every load; consensus decoding is the first of each."""
    head = ["prompts", "batch", "system", ">tokens/s", ">consensus/this", ">AR/this"]
    rows = [[*head, ">by question", ">tok/step", ">same text"]]
    for load in loads:
        for system in load["systems"]:
            own = system is load["systems"][0]
            rows.append(
                [
                    *((_load(load), _batch(load)) if own else ("", "")),
                    system["name"],
                    _spread(system["tokens_per_s"], 0),
                    "" if own else _spread(system["consensus_ratio"], 2),
                    "" if own else _number(system["ar_ratio"]["median"]),
                    _number(load["per_question_ratio"]) if system["name"] == "AR" else "",
                    _number(load["acceptance_length"]) if own else "",
                    "" if own else f"{system['rows_as_consensus']} of {load['rows']}",
                ]
            )
    return rows


def _batch(load: Report) -> str:
    return str(load["batch"]) + (f" at {load['context']}" if load["context"] else "")


def _load(load: Report) -> str:
    left_out = f", {load['rows_without_room']} too long" if load["rows_without_room"] else ""
    return f"{load['prompt_set']}, {load['rows']} rows{left_out}"


def _spread(values: Mapping[str, float], digits: int) -> str:
    """Median, lowest and highest as text."""
    low, high = (f"{values[name]:.{digits}f}" for name in ("lowest", "highest"))
    return f"{values['median']:.{digits}f} ({low}-{high})"


def _number(value: float | None) -> str:
    """A number as text, - for none."""
    return "-" if value is None else f"{value:.2f}"
