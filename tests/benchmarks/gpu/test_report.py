"""Tables of the GPU benchmark."""

import json

from tests.benchmarks.gpu.report import Report, Section


def test_a_table_has_a_column_per_figure_and_blanks_where_a_line_lacks_one():
    section = Section("step", "Note.", [{"T": 16, "ms": 1.23456, "passed": True}, {"T": 32, "passed": False}])
    assert section.markdown().splitlines() == [
        "## step",
        "",
        "Note.",
        "",
        "| T | ms | passed |",
        "| --- | --- | --- |",
        "| 16 | 1.235 | pass |",
        "| 32 |  | FAIL |",
    ]


def test_a_stopped_table_says_why():
    assert (
        Section("step", "", stopped="the time budget is used up")
        .markdown()
        .endswith("Stopped: the time budget is used up.\n")
    )


def test_lines_without_a_target_do_not_fail():
    rows = [{"passed": None}, {"passed": True}, {}, {"passed": False}]
    assert Section("step", "", rows).num_failed == 1


def test_both_files_hold_conditions_and_figures(tmp_path):
    report = Report({"device": "H200"}, tmp_path / "new", [Section("step", "A note.", [{"T": 16}])])
    report.write()
    read = json.loads((tmp_path / "new" / "gpu.json").read_text())
    assert read["conditions"] == {"device": "H200"}
    assert read["sections"]["step"]["rows"] == [{"T": 16}]
    text = (tmp_path / "new" / "gpu.md").read_text()
    assert "device H200" in text
    assert "| 16 |" in text
