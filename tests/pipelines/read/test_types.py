"""Carried columns keep their Arrow types from the input file to the output file."""

import datetime
import decimal
import json
import uuid

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.generate.write.sink import commit_unit
from pipelines.read.choose_columns import choose_layout
from pipelines.read.columns import ENGINE, ROW_ERROR
from pipelines.read.source import column_types, read_unit
from pipelines.read.units import Plan
from tests.pipelines.read import plans

DAY = datetime.datetime(2024, 5, 6, 7, 8, 9, 123456)
TREE = [{"a": [1, None], "b": {"c": "x"}}, None, {"a": [], "b": {"c": None}}]
COLUMNS = {
    "text": pa.array(["a", None, "ccc"]),
    "large_text": pa.array(["a", None, "ccc"], pa.large_string()),
    "text_view": pa.array(["a", None, "a long text, longer than twelve bytes"], pa.string_view()),
    "binary": pa.array([b"\x00\xff", None, b""], pa.binary()),
    "binary_view": pa.array([b"\x00\xff", None, b""], pa.binary_view()),
    "dictionary": pa.array(["x", None, "x"]).dictionary_encode(),
    "small_dictionary": pa.array(["x", None, "y"], pa.dictionary(pa.int8(), pa.string())),
    "list": pa.array([[1, None], None, []], pa.list_(pa.int16())),
    "large_list": pa.array([[1, None], None, []], pa.large_list(pa.int16())),
    "fixed_list": pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32(), 2)),
    "tree": pa.array(TREE, pa.struct([("a", pa.list_(pa.int8())), ("b", pa.struct([("c", pa.string())]))])),
    "map": pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int32())),
    "decimal": pa.array([decimal.Decimal("1.25"), None, decimal.Decimal("-3.50")], pa.decimal128(9, 2)),
    "timestamp": pa.array([DAY, None, DAY], pa.timestamp("us")),
    "timestamp_zone": pa.array([DAY, None, DAY], pa.timestamp("ns", "Europe/Berlin")),
    "date": pa.array([DAY.date(), None, DAY.date()], pa.date32()),
    "time": pa.array([DAY.time(), None, DAY.time()], pa.time64("us")),
    "duration": pa.array([datetime.timedelta(1), None, datetime.timedelta(0)], pa.duration("ms")),
    "half": pa.array([1.5, None, -2.0], pa.float16()),
    "unsigned": pa.array([2**64 - 1, None, 0], pa.uint64()),
    "uuid": pa.array([uuid.UUID(int=5).bytes, None, uuid.UUID(int=9).bytes], pa.uuid()),
    "null": pa.nulls(3),
}

# Ray cannot send views from stage to stage: they become their plain kin.
VIEWS = {"text_view": pa.large_string(), "binary_view": pa.large_binary()}


def planned(*tables: pa.Table, folder) -> Plan:
    for number, table in enumerate(tables):
        pq.write_table(table, folder / f"{number}.parquet")
    return plans.planned(folder, unit_rows=2)


def through(plan: Plan, folder, samples: int = 1) -> list[pa.Table]:
    """What each unit's output file holds, with rows as an actor would complete them, each so many times."""
    layout = choose_layout(plan.schema, needed=["q"], carry=None, id_column=None)
    outputs = []
    for unit in plan.units:
        table = read_unit(plan.shards_of(unit), unit, column_types(plan, layout))
        table = table.take(pa.array([row for row in range(table.num_rows) for _ in range(samples)]))
        for field in layout.output:
            if field.name not in table.column_names:
                table = table.append_column(field, pa.nulls(table.num_rows, field.type))
        facts = [json.dumps({"counts": {"rows_in": table.num_rows}})] + [None] * (table.num_rows - 1)
        table = table.append_column(ENGINE, pa.array(facts, pa.string()))
        commit_unit(table, str(folder), layout, "f")
        outputs.append(pq.read_table(folder / unit.file_name))
    return outputs


@pytest.mark.parametrize("name", COLUMNS)
def test_a_carried_column_keeps_its_type_and_values(tmp_path, name):
    (tmp_path / "in").mkdir()
    table = pa.table({"q": ["a", "b", "c"], "value": COLUMNS[name]})
    stored_type = VIEWS.get(name) or _stored(table, tmp_path).field("value").type
    outputs = through(planned(table, folder=tmp_path / "in"), tmp_path / "out")
    assert {output.schema.field("value").type for output in outputs} == {stored_type}
    values = [value for output in outputs for value in output.column("value").to_pylist()]
    assert values == COLUMNS[name].to_pylist()


def _stored(table: pa.Table, tmp_path) -> pa.Schema:
    """The types that Parquet itself gives back."""
    pq.write_table(table, tmp_path / "probe.parquet")
    return pq.read_schema(tmp_path / "probe.parquet")


def test_dictionaries_of_different_shards_keep_their_own_values(tmp_path):
    (tmp_path / "in").mkdir()
    tables = [
        pa.table({"q": ["a", "b", "c"], "value": pa.array(words).dictionary_encode()})
        for words in (["x", "y", "x"], ["z", "y", None])
    ]
    outputs = through(planned(*tables, folder=tmp_path / "in"), tmp_path / "out")
    assert [value for output in outputs for value in output.column("value").to_pylist()] == [
        *("x", "y", "x"),
        *("z", "y", None),
    ]
    assert len({output.schema.remove_metadata() for output in outputs}) == 1


def test_types_that_differ_between_shards_become_the_wider_one(tmp_path):
    (tmp_path / "in").mkdir()
    tables = [
        pa.table({"q": ["a"], "value": pa.array([1], pa.int16())}),
        pa.table({"q": ["a"], "value": pa.array([2**40], pa.int64())}),
        pa.table({"q": ["a"], "value": pa.nulls(1)}),
    ]
    outputs = through(planned(*tables, folder=tmp_path / "in"), tmp_path / "out")
    assert [output.column("value").to_pylist() for output in outputs] == [[1], [2**40], [None]]
    assert {output.schema.field("value").type for output in outputs} == {pa.int64()}


def test_json_values_without_a_common_type_come_out_as_json_text(tmp_path):
    (tmp_path / "in").mkdir()
    values = [5, "text", None, {"a": {}}, 2**64, [0.5, "é"]]
    lines = [json.dumps({"q": "x", "value": value}) for value in values]
    (tmp_path / "in" / "0.jsonl").write_text("\n".join(lines[:4]))
    (tmp_path / "in" / "1.jsonl").write_text("\n".join(lines[4:]))
    plan = planned(folder=tmp_path / "in")
    outputs = through(Plan.from_json(plan.to_json()), tmp_path / "out")
    assert {output.schema.field("value").type for output in outputs} == {pa.string()}
    texts = [value for output in outputs for value in output.column("value").to_pylist()]
    assert [None if text is None else json.loads(text) for text in texts] == values


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [
        (pa.array([1]), pa.array([2**53 + 1, 0]), pa.float64()),
        (pa.array([1]), pa.array([2**64 - 1, 0], pa.uint64()), pa.int64()),
    ],
)
def test_a_value_that_fits_no_common_type_is_no_damage_and_says_what_to_do(tmp_path, first, second, kind):
    (tmp_path / "in").mkdir()
    if kind == pa.float64():
        first = first.cast(kind)
    tables = [pa.table({"q": ["a"] * len(value), "value": value}) for value in (first, second)]
    plan = planned(*tables, folder=tmp_path / "in")
    assert plan.schema.field("value").type == kind
    [error] = set(read_unit(plan.shards[1:2], plan.units[1], plan.schema).column(ROW_ERROR).to_pylist())
    assert error.startswith(
        f"input types differ: {tmp_path}/in/1.parquet, unit 0 (rows 0 to 1): column value is "
    )
    assert f"in this file, {kind} in all together, and not every value fits: " in error
    assert error.endswith("make the files agree, or leave the column out with input.carry")


def test_a_column_whose_name_has_a_dot_is_not_part_of_another(tmp_path):
    (tmp_path / "in").mkdir()
    table = pa.table({"q": ["x"], "q.a": [1], "s": [{"a": 1}], "s.a": ["y"]})
    [output] = through(planned(table, folder=tmp_path / "in"), tmp_path / "out")
    assert output.select(table.column_names).to_pylist() == table.to_pylist()


def test_an_extension_type_that_nobody_registered_stays_what_it_is_stored_as(tmp_path):
    (tmp_path / "in").mkdir()
    metadata = {"ARROW:extension:name": "some.type", "ARROW:extension:metadata": "1"}
    field = pa.field("value", pa.int32(), metadata=metadata)
    table = pa.table(
        [pa.array(["a"]), pa.array([5], pa.int32())], pa.schema([pa.field("q", pa.string()), field])
    )
    [output] = through(planned(table, folder=tmp_path / "in"), tmp_path / "out")
    assert output.column("value").to_pylist() == [5]
    assert output.schema.field("value").type == pa.int32()
