"""Random nested types travel from shards that differ, through units, samples and files, to the output."""

import base64
import datetime
import decimal
import random
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.read.arrow_types import plain_type
from tests.pipelines.read.test_types import planned, through

DAY = datetime.datetime(2024, 5, 6)
LEAVES: dict[pa.DataType, Callable[[int], Any]] = {
    pa.null(): lambda n: None,
    pa.bool_(): lambda n: n % 2 == 0,
    pa.int8(): lambda n: n - 50,
    pa.int64(): lambda n: n * 10**9,
    pa.float64(): lambda n: n / 4,
    pa.string(): str,
    pa.large_string(): lambda n: "long" * n,
    pa.string_view(): lambda n: "long" * n,
    pa.binary_view(): lambda n: b"long" * n,
    pa.dictionary(pa.int8(), pa.string()): lambda n: "ab"[n % 2],
    pa.timestamp("us"): lambda n: DAY + datetime.timedelta(n),
    pa.decimal128(9, 2): lambda n: decimal.Decimal(n) / 4,
}
WIDER = {pa.int8(): pa.int64(), pa.int64(): pa.float64(), pa.string(): pa.large_string()}
LISTS = (pa.list_, pa.large_list, pa.list_view, lambda kind: pa.list_(kind, 2))
ROWS, COLUMNS = 3, 50  # of a row group; of a file


def random_type(rng: random.Random, depth: int = 3) -> pa.DataType:
    if depth == 0 or rng.random() < 0.3:
        return rng.choice([*LEAVES])
    if rng.random() < 0.4:
        return pa.struct([(f"f{i}", random_type(rng, depth - 1)) for i in range(rng.randint(1, 2))])
    if rng.random() < 0.2:
        return pa.map_(pa.string(), random_type(rng, depth - 1))
    return rng.choice(LISTS)(random_type(rng, depth - 1))


def other_type(rng: random.Random, kind: pa.DataType) -> pa.DataType:
    """The type that another file could have for the same column."""
    if rng.random() < 0.1:
        return pa.null()
    if pa.types.is_struct(kind):
        fields = [(field.name, other_type(rng, field.type)) for field in kind]
        rng.shuffle(fields)
        return pa.struct([*fields[: rng.randint(1, 3)], *[("new", pa.int8())][: rng.randint(0, 1)]])
    if pa.types.is_map(kind):
        return pa.map_(pa.string(), other_type(rng, kind.item_type))
    if kind.num_fields:
        inner = other_type(rng, kind.value_type)
        return pa.list_(inner, 2) if pa.types.is_fixed_size_list(kind) else pa.list_(inner)
    return WIDER.get(kind, kind)


def random_value(rng: random.Random, kind: pa.DataType) -> Any:
    if rng.random() < 0.2:
        return None
    if pa.types.is_struct(kind):
        return {field.name: random_value(rng, field.type) for field in kind}
    if pa.types.is_map(kind):
        return [(f"k{i}", random_value(rng, kind.item_type)) for i in range(rng.randrange(3))]
    if kind.num_fields:
        count = 2 if pa.types.is_fixed_size_list(kind) else rng.randrange(4)
        return [random_value(rng, kind.value_type) for _ in range(count)]
    return LEAVES[kind](rng.randrange(100))


def as_type(value: Any, kind: pa.DataType) -> Any:
    """A value as a wider type has it."""
    if value is None:
        return None
    if pa.types.is_struct(kind):
        return {field.name: as_type(value.get(field.name), field.type) for field in kind}
    if pa.types.is_map(kind):
        return [(key, as_type(item, kind.item_type)) for key, item in value]
    return [as_type(item, kind.value_type) for item in value] if kind.num_fields else value


def write(path, kinds: dict[str, pa.DataType], rows: list[dict[str, Any]]) -> None:
    """A file whose metadata says that it has these types, as other writers make it; pyarrow cannot."""
    plain = pa.schema([(name, plain_type(kind)) for name, kind in kinds.items()])
    with pq.ParquetWriter(path, plain, store_schema=False) as writer:
        writer.write_table(pa.Table.from_pylist(rows, plain), row_group_size=ROWS)
        writer.add_key_value_metadata({"ARROW:schema": base64.b64encode(pa.schema(kinds).serialize())})
    assert pq.read_schema(path).types == [*kinds.values()]


@pytest.mark.parametrize("seed", range(20))
def test_a_thousand_nested_types_keep_every_value(tmp_path, seed):
    rng = random.Random(seed)
    first = {"q": pa.string()} | {f"c{i}": random_type(rng) for i in range(COLUMNS)}
    second = {name: other_type(rng, kind) for name, kind in first.items()} | {"q": pa.string()}
    (tmp_path / "in").mkdir()
    rows = []
    for number, kinds in enumerate((first, second)):
        made = [{name: random_value(rng, kind) for name, kind in kinds.items()} for _ in range(2 * ROWS)]
        write(tmp_path / "in" / f"{number}.parquet", kinds, made)
        rows += made
    plan = planned(folder=tmp_path / "in")
    tables = through(plan, tmp_path / "out", samples=2)
    assert len({table.schema.remove_metadata() for table in tables}) == 1
    for name, kind in zip(plan.schema.names, plan.schema.types, strict=True):
        found = [value for table in tables for value in table.column(name).to_pylist()]
        expected = [as_type(row.get(name), kind) for row in rows]
        assert (found[::2], found[1::2]) == (expected, expected), (name, kind)
