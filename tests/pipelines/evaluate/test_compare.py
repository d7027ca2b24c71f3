import io
import json

import pytest
from rich.console import Console

from orthrus_core.errors import ConfigError
from pipelines.evaluate.compare import compare_reports, figures


def report(share, *, rows=10):
    text = {"prompt_set": "sums", "dtype": "float32", "batch": 2, "share": share, "seconds": [share]}
    return {"created": str(share), "prompt_sets": {"sums": {"rows": rows}}, "texts": [text]}


def test_entries_of_a_list_are_known_by_what_they_measured():
    assert dict(figures(report(0.5))) == {"prompt_sets.sums.rows": 10, "texts[sums, float32, 2].share": 0.5}


def test_what_differs_is_shown_with_its_ratio(tmp_path):
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, share in zip(paths, (0.5, 0.75), strict=True):
        path.write_text(json.dumps(report(share)))
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(compare_reports(*paths))
    text = console.export_text()
    assert "texts[sums, float32, 2].share: 0.5 -> 0.75 (x 1.500)" in text
    assert "1 differ, 1 are the same" in text
    assert "rows" not in text


@pytest.mark.parametrize(
    ("content", "message"), [(None, "cannot read"), ("{", "is not json"), ("[]", "is no report of")]
)
def test_a_file_that_is_no_report_is_a_mistake(tmp_path, content, message):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        compare_reports(path, path)
