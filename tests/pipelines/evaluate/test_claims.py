"""The README's tables of what was measured are those of the report in docs/evidence."""

import json
from pathlib import Path

from pipelines.evaluate.rows import answer_rows, exactness_rows

ROOT = Path(__file__).parents[3]
EVIDENCE = "docs/evidence/real.json"
REPORT = json.loads((ROOT / EVIDENCE).read_text())


def claims(report) -> str:
    """Markdown: on what it was measured, which rows are the same, which answers are right."""
    machine, tokens = report["machine"], report["config"]["sampling"]["max_new_tokens"]
    where = f"{machine['processor'] or machine['device']}, {machine['threads']} thread(s)"
    what = f"`{report['model']['path']}`, {where}, up to {tokens} tokens each, {report['created'][:10]}"
    parts = [f"{what}{'' if report['ended'] else ', cut short'}:"]
    parts += [markdown(rows) for rows in (exactness_rows(report), answer_rows(report)) if len(rows) > 1]
    return "\n\n".join(parts) + "\n"


def markdown(rows) -> str:
    head, *lines = rows
    rule = ["---:" if name.startswith(">") else "---" for name in head]
    names = [name.removeprefix(">") for name in head]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (names, rule, *lines))


def test_the_readme_has_the_table_of_the_kept_report():
    table = claims(REPORT)
    assert table in (ROOT / "README.md").read_text(), f"of {EVIDENCE} the README must have:\n{table}"


def test_consensus_is_ar_on_every_row_of_the_kept_report():
    for text in REPORT["texts"]:
        exactness = text["exactness"]
        assert exactness["identical_tokens"] == exactness["rows"]
