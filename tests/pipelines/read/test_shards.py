"""Looking at input files: rows, types, and every bad file at once."""

import gzip
import json
import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orthrus_core.errors import ConfigError
from pipelines.read.arrow_types import JSON_TEXT
from pipelines.read.shards import inspect_shards, list_shards


@pytest.fixture
def write(tmp_path):
    """Write a file by name: a dict of columns as Parquet, text as it is."""

    def writer(name, content, **options):
        path = tmp_path / name
        if isinstance(content, str):
            path.write_text(content)
        else:
            pq.write_table(pa.table(content), path, **options)
        return str(path)

    return writer


def inspect(*paths, needed=None, unit_rows=256, carried=None):
    files = list_shards(paths, "auto")
    needed = {"q": "text"} if needed is None else needed
    return inspect_shards(files, needed=needed, unit_rows=unit_rows, carried=carried)


def fault(*paths, **options) -> str:
    with pytest.raises(ConfigError) as caught:
        inspect(*paths, **options)
    return str(caught.value)


def lines(*rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_parquet_rows_are_counted_by_row_group(write):
    path = write("a.parquet", {"q": ["x"] * 25}, row_group_size=10)
    [shard] = inspect(path).shards
    assert (shard.num_rows, shard.row_groups) == (25, (10, 10, 5))


def test_a_file_named_twice_is_one_shard(write, tmp_path):
    path = write("a.parquet", {"q": ["x"]})
    assert len(inspect(path, str(tmp_path), f"{tmp_path}/*.parquet").shards) == 1


def test_all_bad_shards_are_named_at_once(write):
    good = write("a.parquet", {"q": ["x"]})
    other = write("b.parquet", {"p": ["x"]})
    broken = write("c.parquet", "PAR1 and then nothing")
    number = write("d.parquet", {"q": [1]})
    text = fault(good, other, broken, number)
    assert text.startswith("3 bad input file(s): ")
    assert f"{other}: no column q (it has p)" in text
    assert f"{broken}: unreadable: " in text
    assert f"{number}: column q is int64, not a text column" in text


def test_dictionary_encoded_and_large_text_are_text(write):
    words = pa.array(["x", "y"])
    paths = [
        write("a.parquet", {"q": words.dictionary_encode()}),
        write("b.parquet", {"q": words.cast(pa.large_string())}),
    ]
    for path in paths:
        assert inspect(path).shards[0].num_rows == 2


def test_an_empty_shard_needs_no_column(write):
    empty = write("a.parquet", {"p": pa.array([], pa.string())})
    assert [shard.num_rows for shard in inspect(empty, write("b.parquet", {"q": ["x"]})).shards] == [0, 1]


def test_columns_of_all_shards_are_joined_and_widened(write):
    first = write("a.parquet", {"q": ["x"], "n": pa.array([1], pa.int32())})
    second = write("b.parquet", {"q": ["x"], "n": pa.array([1], pa.int64()), "extra": [0.5]})
    expected = pa.schema([("q", pa.string()), ("n", pa.int64()), ("extra", pa.float64())])
    assert inspect(first, second).schema == expected


def test_columns_that_cannot_be_joined_are_named(write):
    first = write("a.parquet", {"q": ["x"], "n": [1]})
    second = write("b.parquet", {"q": ["x"], "n": ["one"]})
    assert fault(first, second).startswith("column n is int64 in earlier files and string in ")


def test_jsonl_is_cut_at_the_bytes_where_units_begin(write):
    text = lines({"q": "é"}, {"q": "b"}) + "\n" + lines({"q": "c"})
    [shard] = inspect(write("a.jsonl", text), unit_rows=2).shards
    size = len(text.encode())
    assert (shard.num_rows, shard.offsets) == (3, (0, size - len(lines({"q": "c"})), size))


def test_jsonl_types_are_found_in_all_lines(write):
    rows = [{"q": "x", "n": 1}] * 5000 + [{"q": "x", "n": 1.5, "late": {"deep": [True]}}]
    schema = inspect(write("a.jsonl", lines(*rows))).schema
    assert schema.field("n").type == pa.float64()
    assert schema.field("late").type == pa.struct([("deep", pa.list_(pa.bool_()))])


def test_jsonl_text_that_looks_like_a_date_stays_text(write):
    assert inspect(write("a.jsonl", lines({"q": "2020-01-01"}))).schema.field("q").type == pa.string()


def test_a_text_column_stays_text_whatever_else_is_in_it(write):
    schema = inspect(write("a.jsonl", lines({"q": 5}, {"q": "x"}, {"q": [1]}))).schema
    assert schema.field("q").type == pa.string()


def test_columns_that_are_neither_needed_nor_carried_may_be_anything(write):
    paths = [
        write("a.parquet", {"q": ["x"], "n": [1]}),
        write("b.parquet", {"q": ["x"], "n": ["one"]}),
    ]
    assert inspect(*paths, carried=[]).schema.field("q").type == pa.string()
    assert "leave it out with input.carry, or make the files agree" in fault(*paths, carried=["n"])
    assert fault(*paths, needed={"n": "any"}, carried=[]).endswith("b.parquet; make the files agree")


def test_two_columns_of_one_name_are_a_fault_where_they_are_used(write, tmp_path):
    path = str(tmp_path / "a.parquet")
    pq.write_table(pa.table([["x"], [1], [2]], names=["q", "n", "n"]), path)
    assert "more than one column n; rename one, or leave it out with input.carry" in fault(path)
    assert inspect(path, carried=["q"]).shards[0].num_rows == 1
    assert fault(path, needed={"n": "any"}).endswith("more than one column n; rename one")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"not json\n", "'not json': line is not json: "),
        (b'[\n{"q": "x"},\n{"q": "y"}\n]\n', "a JSON array or its beginning; name the file .json"),
        (b'{\n"q": "x"\n}\n', "the beginning of an object over several lines"),
        (gzip.compress(b'{"q": "x"}\n', mtime=0), "gzip data; name the file .jsonl.gz"),
        (b"PAR1\x15\x04\x15\nPAR1", "Parquet; name the file .parquet"),
        ('{"q": "é"}\n'.encode("latin-1"), "not UTF-8 (byte 0xe9 at 7); convert the file to UTF-8"),
        ('{"q": "é"}\n'.encode("utf-16"), "UTF-16 text; write UTF-8"),
        (b'"q"\n', "line is a json str, not an object"),
    ],
)
def test_of_a_jsonl_file_without_any_row_it_is_said_what_its_first_line_is(tmp_path, content, what):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    text = fault(str(path))
    assert text.startswith(f"1 bad input file(s): {path}: no JSON lines; the first line is ")
    assert what in text


@pytest.mark.parametrize(
    "line", ['{"a": ' * 5000, '{"q": "\\ud800"}', '{"\\udcff": 1}', "[" * 999 + "]" * 999]
)
def test_a_line_that_is_no_row_costs_nothing_but_itself(write, line):
    found = inspect(write("a.jsonl", lines({"q": "x"}) + line + "\n" + lines({"q": "y"})))
    assert found.shards[0].num_rows == 3
    assert found.schema == pa.schema([("q", pa.string())])


def test_text_of_any_language_is_a_row_escaped_or_not(write):
    row = {"q": "\U0001f600 é"}
    path = write("a.jsonl", "\ufeff" + lines(row) + json.dumps(row, ensure_ascii=False))
    assert inspect(path).schema.field("q").type == pa.string()


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, "a"], JSON_TEXT),
        ([True, 1], JSON_TEXT),
        ([2**63], JSON_TEXT),
        ([1, 2**63], JSON_TEXT),
        ([{}, {}], JSON_TEXT),
        ([{"a": {}}], JSON_TEXT),
        ([[{}], [{"a": 1}]], pa.list_(pa.struct([("a", pa.int64())]))),
        ([{"a": 1}, {"b": 2.5}], pa.struct([("a", pa.int64()), ("b", pa.float64())])),
        ([{"a": [1]}, {"a": "x"}], JSON_TEXT),
        ([2**53, 0.5], pa.float64()),
        ([2**53 + 1, 0.5], JSON_TEXT),
        ([{"id": 2**60, "v": 1}, {"v": 0.5}], pa.struct([("id", pa.int64()), ("v", pa.float64())])),
        ([2**60], pa.int64()),
        ([None], pa.null()),
        ([{str(i): 1} for i in range(1500)], JSON_TEXT),
        ([json.loads("[" * 40 + "]" * 40)], JSON_TEXT),
    ],
)
@pytest.mark.parametrize("layout", ["one line after the other", "far apart", "two files"])
def test_carried_json_has_a_type_that_holds_every_value_or_is_json_text(
    write, monkeypatch, layout, values, kind
):
    rows = [lines({"q": "x", "n": value}) for value in values]
    if layout == "far apart":
        monkeypatch.setattr("pipelines.read.shard.SCAN_LINES", -(-len(values) // 2))
    if layout == "two files":
        rows = ["".join(rows[:1]), "".join(rows[1:]) or lines({"q": "x"})]
        found = inspect(*(write(f"{i}.jsonl", text) for i, text in enumerate(rows)))
    else:
        found = inspect(write("a.jsonl", "".join(rows)))
    assert found.schema.field("n").type == kind


def test_columns_that_are_carried_as_json_text_are_named(write, caplog):
    path = write("a.jsonl", lines({"q": "x", "n": 1, "m": 2}, {"q": "x", "n": "a", "m": "b"}))
    with caplog.at_level(logging.WARNING):
        inspect(path, carried=["n"])
    assert [record.message for record in caplog.records] == [
        "carried_as_json_text columns=n: their values have no type in common"
    ]


def test_an_ending_that_says_nothing_asks_for_the_format(write):
    path = write("a.txt", "x")
    with pytest.raises(ConfigError, match="set input.format"):
        list_shards([path], "auto")
    assert list_shards([path], "jsonl")[0][1] == "jsonl"
