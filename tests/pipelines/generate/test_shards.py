"""Looking at input files: rows, types, and every bad file at once."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orthrus_core.errors import ConfigError
from pipelines.generate.shards import inspect_shards, list_shards


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


def inspect(*paths, needed=None, unit_rows=256):
    files = list_shards(paths, "auto")
    return inspect_shards(files, needed={"q": "text"} if needed is None else needed, unit_rows=unit_rows)


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


def test_of_values_that_fit_no_common_type_the_first_wins(write):
    schema = inspect(write("a.jsonl", lines({"q": "x"}, {"q": 5}, {"q": [1]}))).schema
    assert schema.field("q").type == pa.string()


def test_jsonl_without_any_good_line_is_a_bad_file(write):
    assert "no column q (it has none)" in fault(write("a.jsonl", "not json\n"))


def test_an_ending_that_says_nothing_asks_for_the_format(write):
    path = write("a.txt", "x")
    with pytest.raises(ConfigError, match="set input.format"):
        list_shards([path], "auto")
    assert list_shards([path], "jsonl")[0][1] == "jsonl"
