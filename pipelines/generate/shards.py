"""Input files: what is in each, looked at once before anything is generated."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orthrus_core.errors import ConfigError
from pipelines.storage import FileInfo, list_inputs, map_files, open_file

ENDINGS = {"parquet": (".parquet", ".pq"), "jsonl": (".jsonl", ".ndjson")}


@dataclass(frozen=True)
class Shard:
    """One input file.

    Attributes:
        index: number in the sorted listing.
        file: where and how large it is.
        format: "parquet" or "jsonl".
        num_rows: rows in it.
        row_groups: rows of each Parquet row group; empty for jsonl.
        offsets: jsonl only: byte where each unit's first line begins, then the file's size.
    """

    index: int
    file: FileInfo
    format: str
    num_rows: int
    row_groups: tuple[int, ...] = ()
    offsets: tuple[int, ...] = ()


@dataclass(frozen=True)
class Inspection:
    """What all shards hold together.

    Attributes:
        shards: in the order of the listing.
        schema: union of their columns; where types differ between shards, the wider one.
    """

    shards: tuple[Shard, ...]
    schema: pa.Schema


@dataclass
class _JsonlScan:
    """What a pass over a jsonl file finds: line offsets of units and the columns' types."""

    offsets: list[int] = field(default_factory=list)
    num_rows: int = 0
    types: dict[str, pa.DataType] = field(default_factory=dict)


def list_shards(paths: Sequence[str], format_name: str) -> list[tuple[FileInfo, str]]:
    """Input files, sorted by name within each path, with their formats.

    Raises:
        ConfigError: nothing found, or an ending that says nothing about the format.
    """
    endings = ENDINGS.get(format_name) or tuple(e for group in ENDINGS.values() for e in group)
    files = {file.url: file for path in paths for file in list_inputs(path, endings)}
    return [(file, _format_of(file.url, format_name)) for file in files.values()]


def inspect_shards(
    files: Sequence[tuple[FileInfo, str]], *, needed: Mapping[str, str], unit_rows: int
) -> Inspection:
    """Read every shard's footer (Parquet) or all its lines once (jsonl).

    Args:
        files: listing with formats.
        needed: columns that every shard must have, each with its kind: "text", "list" or "any".
        unit_rows: rows of a unit; jsonl offsets are taken every so many lines.
    Raises:
        ConfigError: naming every shard that is unreadable, lacks a needed column or has it in another kind.
    """
    jobs = [(index, file, kind, unit_rows) for index, (file, kind) in enumerate(files)]
    looked = map_files(_inspect, jobs)
    good = [result for result in looked if not isinstance(result, str)]
    faults = [
        f"{file.url}: {fault}"
        for (file, _), result in zip(files, looked, strict=True)
        if (fault := result if isinstance(result, str) else _column_faults(result[0], result[1], needed))
    ]
    if faults:
        raise ConfigError(f"{len(faults)} bad input file(s): " + "; ".join(faults))
    shards = tuple(shard for shard, _ in good)
    return Inspection(shards, _unify([schema for _, schema in good], shards))


def jsonl_rows(lines: Sequence[bytes]) -> Iterator[dict[str, Any] | str]:
    """Each line as a dict, or as the reason why it is none."""
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError as error:
            yield f"line is not json: {error}"
            continue
        yield row if isinstance(row, dict) else f"line is a json {type(row).__name__}, not an object"


def infer_type(values: Sequence[Any]) -> pa.DataType | None:
    """Arrow type that holds all of these values, or None where no one type does."""
    try:
        return pa.array(values).type
    except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeEncodeError, OverflowError):
        return None


def _format_of(url: str, format_name: str) -> str:
    if format_name != "auto":
        return format_name
    for name, endings in ENDINGS.items():
        if url.endswith(endings):
            return name
    raise ConfigError(
        f"input.paths: {url} has none of the endings .parquet .pq .jsonl .ndjson; set input.format"
    )


def _inspect(job: tuple[int, FileInfo, str, int]) -> tuple[Shard, pa.Schema] | str:
    """A shard and its schema, or what is wrong with the file."""
    index, file, kind, unit_rows = job
    try:
        if kind == "parquet":
            return _inspect_parquet(index, file)
        return _inspect_jsonl(index, file, unit_rows)
    except Exception as error:  # whatever the store or the format's reader raises, the file is bad
        return f"unreadable: {' '.join(str(error).split()) or type(error).__name__}"


def _inspect_parquet(index: int, file: FileInfo) -> tuple[Shard, pa.Schema]:
    with open_file(file.url) as handle:
        footer = pq.ParquetFile(handle)
        groups = tuple(footer.metadata.row_group(g).num_rows for g in range(footer.num_row_groups))
        schema = footer.schema_arrow.remove_metadata()
    return Shard(index, file, "parquet", sum(groups), groups), schema


def _inspect_jsonl(index: int, file: FileInfo, unit_rows: int) -> tuple[Shard, pa.Schema]:
    scan = _JsonlScan()
    with open_file(file.url) as handle:
        lines: list[bytes] = []
        position = 0
        for line in handle:
            if line.strip():
                if scan.num_rows % unit_rows == 0:
                    scan.offsets.append(position)
                scan.num_rows += 1
                lines.append(line)
            position += len(line)
            if len(lines) == 4096:
                _add_types(scan.types, lines)
                lines = []
        _add_types(scan.types, lines)
    offsets = (*scan.offsets, position)
    schema = pa.schema([pa.field(name, kind) for name, kind in scan.types.items()])
    return Shard(index, file, "jsonl", scan.num_rows, offsets=offsets), schema


def _add_types(types: dict[str, pa.DataType], lines: Sequence[bytes]) -> None:
    """Widen the known column types by what these lines hold.

    The first type seen wins over values that fit no common type: their rows become error rows.
    """
    columns: dict[str, list[Any]] = {}
    for row in jsonl_rows(lines):
        if isinstance(row, dict):
            for name, value in row.items():
                columns.setdefault(name, []).append(value)
    for name, values in columns.items():
        seen = infer_type(values)
        for kind in [seen] if seen is not None else map(infer_type, ([v] for v in values)):
            if kind is not None:
                types[name] = _wider(types.get(name, pa.null()), kind) or types[name]


def _wider(first: pa.DataType, second: pa.DataType) -> pa.DataType | None:
    try:
        both = [pa.schema([pa.field("c", kind)]) for kind in (first, second)]
        return pa.unify_schemas(both, promote_options="permissive").field("c").type
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return None


def _column_faults(shard: Shard, schema: pa.Schema, needed: Mapping[str, str]) -> str:
    """What is wrong with a file's columns; empty if nothing is."""
    if shard.num_rows == 0:
        return ""
    absent = [name for name in needed if name not in schema.names]
    if absent:
        return f"no column {', '.join(absent)} (it has {', '.join(schema.names) or 'none'})"
    if shard.format == "jsonl":
        return ""  # values of the wrong type are error rows there
    wrong = {name: kind for name, kind in needed.items() if not _fits(schema.field(name).type, kind)}
    return ", ".join(
        f"column {n} is {schema.field(n).type}, not a {kind} column" for n, kind in wrong.items()
    )


def _fits(kind: pa.DataType, wanted: str) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if wanted == "any" or pa.types.is_null(kind):
        return True
    if wanted == "list":
        return pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _unify(schemas: Sequence[pa.Schema], shards: Sequence[Shard]) -> pa.Schema:
    """Columns of all shards in the order in which they first appear."""
    types: dict[str, pa.DataType] = {}
    for schema, shard in zip(schemas, shards, strict=True):
        for column in schema:
            wider = _wider(types.get(column.name, pa.null()), column.type)
            if wider is None:
                raise ConfigError(
                    f"column {column.name} is {types[column.name]} in earlier files and {column.type} in "
                    f"{shard.file.url}; leave it out with input.carry, or make the files agree"
                )
            types[column.name] = wider
    return pa.schema([pa.field(name, kind) for name, kind in types.items()])
