"""The README's table of claims is made from the report in docs/evidence."""

from pathlib import Path

from pipelines.evaluate.claims import EVIDENCE, claims, read_evidence

ROOT = Path(__file__).parents[3]


def test_the_readme_has_the_table_of_the_kept_report():
    table = claims(read_evidence(ROOT))
    assert table in (ROOT / "README.md").read_text(), f"of {EVIDENCE} the README must have:\n{table}"


def test_consensus_is_ar_on_every_row_of_the_kept_report():
    for text in read_evidence(ROOT)["texts"]:
        exactness = text["exactness"]
        assert exactness["identical_tokens"] == exactness["rows"]
