"""Arrow types of columns: found in JSON values, joined over files, and columns brought to them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

# What a plan says of a column whose values have no common type: each is carried as JSON text.
JSON_TEXT = pa.json_(pa.large_string())

SMALL = pa.int32()  # in types of JSON values: whole numbers that a double holds, as `finished` never says
LARGEST_SMALL = 2**53
MOST_PARTS, MOST_LEVELS = 1000, 30  # of a type: an object whose keys are data has no type worth the name


def infer_type(values: Sequence[Any]) -> pa.DataType:
    """The type of JSON values, to be joined with others and `finished`; JSON_TEXT where they have none."""
    try:
        array = pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return JSON_TEXT
    return JSON_TEXT if _is_too_big(array.type) else _with_small_ints(array)


def join_json(first: pa.DataType, second: pa.DataType) -> pa.DataType:
    """The type that holds the JSON values of both, exactly; JSON_TEXT where there is none."""
    joined = _joined(first, second)
    return JSON_TEXT if joined is None or _is_too_big(joined) else joined


def finished(kind: pa.DataType) -> pa.DataType:
    """A type of JSON values as Parquet can store it: there is no object without keys."""
    if any(pa.types.is_struct(part) and part.num_fields == 0 for part, _ in _parts(kind)):
        return JSON_TEXT
    return _rebuilt(kind, lambda leaf: pa.int64() if leaf == SMALL else leaf)


def join_types(first: pa.DataType, second: pa.DataType) -> pa.DataType | None:
    """The wider of two types of Parquet columns; None where neither holds the values of the other."""
    if first == second or pa.types.is_null(second):
        return first
    if pa.types.is_null(first):
        return second
    try:
        both = [pa.schema([pa.field("c", kind)]) for kind in (first, second)]
        return pa.unify_schemas(both, promote_options="permissive").field("c").type
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        values = [kind.value_type if pa.types.is_dictionary(kind) else kind for kind in (first, second)]
        return None if values == [first, second] else join_types(*values)


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type that a Parquet column is read as.

    Ray cannot send views; pyarrow neither joins nor takes from dictionaries within other types.
    """
    if pa.types.is_dictionary(kind):
        return pa.dictionary(kind.index_type, _without_views(kind.value_type), kind.ordered)
    return _rebuilt(kind, _without_views)


def stored_type(kind: pa.DataType) -> pa.DataType:
    """The type that a column of a plan has in tables and output files."""
    return pa.string() if kind == JSON_TEXT else kind


def has_dictionaries(kind: pa.DataType) -> bool:
    """Whether there is a dictionary within the type."""
    return any(pa.types.is_dictionary(part) for part, level in _parts(kind) if level > 1)


def bring_to(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """A column in another type.

    Raises:
        pa.ArrowInvalid: a value does not fit.
    """
    if column.type == kind:
        return column
    if pa.types.is_null(column.type):
        return pa.chunked_array([pa.nulls(len(column), kind)])
    # pyarrow's casts make arrays that are invalid or wrong of these, without an error
    if any(pa.types.is_null(part) or _is_list_view(part) for part, _ in _parts(column.type)):
        return pa.chunked_array([pa.array(column.to_pylist(), kind)])
    return column.cast(kind)


def bring_all_to(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of a schema in its types."""
    return pa.table([bring_to(table.column(field.name), field.type) for field in schema], schema)


def _parts(kind: pa.DataType) -> Iterator[tuple[pa.DataType, int]]:
    """The type and all types within it, with their levels; the type itself is level 1."""
    waiting = [(kind, 1)]
    while waiting:
        part, level = waiting.pop()
        yield part, level
        waiting += [(part.field(i).type, level + 1) for i in range(part.num_fields)]


def _is_too_big(kind: pa.DataType) -> bool:
    return any(n >= MOST_PARTS or level > MOST_LEVELS for n, (_, level) in enumerate(_parts(kind)))


def _with_small_ints(array: pa.Array) -> pa.DataType:
    """An array's type, with SMALL where all whole numbers are."""
    kind = array.type
    if pa.types.is_int64(kind):
        extremes = [abs(n) for n in pc.min_max(array).as_py().values() if n is not None]
        return SMALL if max(extremes, default=0) <= LARGEST_SMALL else kind
    if pa.types.is_list(kind):
        return pa.list_(_with_small_ints(array.flatten()))
    if pa.types.is_struct(kind):
        return pa.struct([(f.name, _with_small_ints(array.field(i))) for i, f in enumerate(kind)])
    return kind


def _joined(first: pa.DataType, second: pa.DataType) -> pa.DataType | None:
    if first == second or pa.types.is_null(second):
        return first
    if pa.types.is_null(first):
        return second
    both = {first, second}
    if both == {SMALL, pa.int64()} or both == {SMALL, pa.float64()}:
        return (both - {SMALL}).pop()
    if pa.types.is_list(first) and pa.types.is_list(second):
        inner = _joined(first.value_type, second.value_type)
        return None if inner is None else pa.list_(inner)
    if pa.types.is_struct(first) and pa.types.is_struct(second):
        fields = {field.name: field.type for field in first}
        for field in second:
            fields[field.name] = _joined(fields.get(field.name, pa.null()), field.type)
        return None if None in fields.values() else pa.struct(list(fields.items()))
    return None


def _rebuilt(kind: pa.DataType, change: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """The type with every part changed that holds no other; list views become lists."""
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_rebuilt(field.type, change)) for field in kind])
    if pa.types.is_map(kind):
        key, item = (f.with_type(_rebuilt(f.type, change)) for f in (kind.key_field, kind.item_field))
        return pa.map_(key, item, kind.keys_sorted)
    if kind.num_fields != 1:
        return change(kind)
    values = kind.value_field.with_type(_rebuilt(kind.value_type, change))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(values, kind.list_size)
    is_large = pa.types.is_large_list(kind) or pa.types.is_large_list_view(kind)
    return pa.large_list(values) if is_large else pa.list_(values)


def _without_views(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_string_view(kind):
        return pa.large_string()
    return pa.large_binary() if pa.types.is_binary_view(kind) else kind


def _is_list_view(kind: pa.DataType) -> bool:
    return pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind)
