"""Files that end in .json: one array, or one object a line."""

import json
import logging

import pyarrow as pa
import pytest

from orthrus_core.errors import ConfigError
from pipelines.read.columns import LINE, ROW_ERROR
from pipelines.read.jsonl import array_spans
from pipelines.read.own_rows import own_rows
from pipelines.read.shards import list_shards
from tests.pipelines.read.plans import planned, read_all


@pytest.mark.parametrize(
    "text",
    ['[{"a": "é"},  5 ,"],"]', "[]", " [ ]\n", '\ufeff[\n {"a": [1, 2]} ,\n{}\n]\n', '["\\n",\t[[],{}]]'],
)
def test_spans_of_an_array_hold_its_elements(text):
    content = text.encode()
    found = [json.loads(content[first:last]) for first, last in array_spans(content)]
    assert found == json.loads(content.decode("utf-8-sig"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{}", "it does not begin with"),
        ("[1 2]", "neither a comma and an element nor ] follows element 0"),
        ("[1,]", "neither a comma and an element nor ] follows element 0"),
        ("[1", "neither a comma and an element nor ] follows element 0"),
        ("[1] x", "there is more behind the array"),
        ("[1, x]", "Expecting value: line 1 column 5"),
    ],
)
def test_what_is_no_array_is_named(text, reason):
    with pytest.raises(ValueError, match=reason):
        array_spans(text.encode())


def test_elements_that_are_no_objects_are_error_rows(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[{"q": "x"}, [1, 2], {"q": "y"}, 5]')
    table = pa.concat_tables(read_all(planned(path, unit_rows=2), ["q"]))
    assert table.column("q").to_pylist() == ["x", None, "y", None]
    assert [error and error[:14] for error in table.column(ROW_ERROR).to_pylist()] == [
        None,
        "line is a json",
        None,
        "line is a json",
    ]


def test_a_row_is_what_its_element_says(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[{"q": "x",\n "n": 1.0}, {"q": "y", "n": 2}]')
    table = pa.concat_tables(read_all(planned(path, unit_rows=2), ["q"]))
    assert table.column(LINE)[0].as_py() == b'{"q": "x",\n "n": 1.0}'
    rows = own_rows(table, ["q", "n"], [None, None])
    assert rows == [{"q": "x", "n": 1.0}, {"q": "y", "n": 2}]


def test_it_is_said_what_the_files_are(tmp_path, caplog):
    (tmp_path / "a.json").write_text('[{"q": "x"}]')
    (tmp_path / "b.json").write_text('{"q": "y"}\n')
    with caplog.at_level(logging.INFO):
        planned(tmp_path / "*.json")
    assert caplog.messages == ["json_files arrays=1 one_object_a_line=1"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('[{"q": "x"}', "neither a comma"),
        ("[1, 2]", "no element of the array is an object"),
        ('{\n "data": []\n}', "the beginning of an object over several lines"),
    ],
)
def test_a_file_without_rows_is_a_bad_one(tmp_path, content, reason):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ConfigError, match=reason):
        planned(tmp_path / "a.json")


def test_below_a_directory_they_are_read_on_request_alone(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"q": "x"}')
    (tmp_path / "dataset_infos.json").write_text("{}")
    assert [kind for _, kind in list_shards([str(tmp_path)], "auto")] == ["jsonl"]
    assert [file.url[-5:] for file, _ in list_shards([str(tmp_path)], "json")] == [".json"]
