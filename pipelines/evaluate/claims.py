"""The README's table of what was measured, made from a report that is kept beside the docs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

EVIDENCE = Path("docs/evidence/real.json")

Report = Mapping[str, Any]


def claims_table(report: Report) -> str:
    """Markdown: the model and machine, then a line for each claim."""
    machine, sampling = report["machine"], report["config"]["sampling"]
    lines = [
        f"{report['model']['path']}, {machine['processor'] or machine['device']}, {machine['threads']} "
        f"thread(s), up to {sampling['max_new_tokens']} tokens each, {report['created'][:10]}"
        + ("" if report["ended"] else "; cut short")
        + ":",
        "",
        "| rows with the same tokens | prompts | dtype | temperature | of | share, 95 % within |",
        "|---|---|---|---|---|---|",
    ]
    for text in report["texts"]:
        lines.append(_line(f"consensus and AR, batch {text['batch']}", text, text["exactness"]))
    for one in report["itself"]:
        first, last = one["batches"]
        lines.append(_line(f"{one['system']}, batch {last} and {first}", one, one))
    lines += ["", "| prompts | dtype | temperature | batch | right: AR, consensus | tokens per step |"]
    lines += ["|---|---|---|---|---|---|"]
    return "\n".join([*lines, *(_answers(text) for text in report["texts"])]) + "\n"


def read_evidence(root: Path) -> Report:
    """The kept report of a checkout."""
    return json.loads((root / EVIDENCE).read_text(encoding="utf-8"))


def _line(what: str, run: Report, found: Report) -> str:
    share = found["share"]
    bounds = f"{100 * share['value']:.1f} % ({100 * share['low']:.1f}-{100 * share['high']:.1f})"
    cells = (what, run["prompt_set"], run["dtype"], f"{run['temperature']:g}")
    return f"| {' | '.join(cells)} | {found['identical_tokens']} of {found['rows']} | {bounds} |"


def _answers(text: Report) -> str:
    answers, length = text["answers"], text["acceptance"]["acceptance_length"]
    right = "-" if answers is None else f"{answers['right']}, {answers['consensus_right']}"
    cells = (text["prompt_set"], text["dtype"], f"{text['temperature']:g}", str(text["batch"]), right)
    return f"| {' | '.join(cells)} | {length:.2f} |"
