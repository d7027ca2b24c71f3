"""The README's tables of what was measured, made from a report that is kept beside the docs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.evaluate.rows import Rows, answer_rows, exactness_rows

EVIDENCE = Path("docs/evidence/real.json")


def claims(report: Mapping[str, Any]) -> str:
    """Markdown: on what it was measured, which rows are the same, which answers are right."""
    machine, tokens = report["machine"], report["config"]["sampling"]["max_new_tokens"]
    where = f"{machine['processor'] or machine['device']}, {machine['threads']} thread(s)"
    what = f"`{report['model']['path']}`, {where}, up to {tokens} tokens each, {report['created'][:10]}"
    parts = [f"{what}{'' if report['ended'] else ', cut short'}:"]
    parts += [_markdown(rows) for rows in (exactness_rows(report), answer_rows(report)) if len(rows) > 1]
    return "\n\n".join(parts) + "\n"


def read_evidence(root: Path) -> Mapping[str, Any]:
    """The kept report of a checkout."""
    return json.loads((root / EVIDENCE).read_text(encoding="utf-8"))


def _markdown(rows: Rows) -> str:
    head, *lines = rows
    rule = ["---:" if name.startswith(">") else "---" for name in head]
    names = [name.removeprefix(">") for name in head]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (names, rule, *lines))
