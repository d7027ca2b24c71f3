"""Input files: what is in each, looked at once before anything is generated."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from orthrus_core.errors import ConfigError
from pipelines.generate.input_file import COMPRESSIONS, BadFileError, WatchedFile, read_file, uncompressed
from pipelines.listing import list_inputs
from pipelines.storage import FileInfo, map_files
from pipelines.storage_errors import reason
from pipelines.working_dir import portable_file

ENDINGS = {
    "parquet": (".parquet", ".pq"),
    "jsonl": tuple(name + packed for name in (".jsonl", ".ndjson") for packed in ("", *COMPRESSIONS)),
}

SCAN_BYTES = 2**20  # of a jsonl file at once

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shard:
    """One input file.

    Attributes:
        index: number in the sorted listing.
        file: where and how large it is.
        format: "parquet" or "jsonl".
        num_rows: rows in it.
        row_groups: rows of each Parquet row group; empty for jsonl.
        offsets: jsonl only: byte where each unit's first line begins, then the file's size; of a compressed
            file, bytes of its content.
        skipped: why nothing is read from it; None: all of it is.
    """

    index: int
    file: FileInfo
    format: str
    num_rows: int
    row_groups: tuple[int, ...] = ()
    offsets: tuple[int, ...] = ()
    skipped: str | None = None


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


class _Types:
    """Columns of all shards in the order in which they first appear, each as wide as any of them needs."""

    def __init__(self) -> None:
        self._types: dict[str, pa.DataType] = {}
        self._seen: list[pa.Schema] = []  # shards mostly have one and the same schema

    def add(self, schema: pa.Schema, url: str) -> None:
        """Take in a shard's columns; raises ConfigError where a type fits no earlier one."""
        if any(schema.equals(seen) for seen in self._seen):
            return
        for column in schema:
            wider = _wider(self._types.get(column.name, pa.null()), column.type)
            if wider is None:
                raise ConfigError(
                    f"column {column.name} is {self._types[column.name]} in earlier files and {column.type} "
                    f"in {url}; leave it out with input.carry, or make the files agree"
                )
            self._types[column.name] = wider
        self._seen = [*self._seen[-7:], schema]

    @property
    def schema(self) -> pa.Schema:
        """The columns so far."""
        return pa.schema([pa.field(name, kind) for name, kind in self._types.items()])


def list_shards(paths: Sequence[str], format_name: str) -> list[tuple[FileInfo, str]]:
    """Input files, sorted by name within each path, with their formats.

    Raises:
        ConfigError: nothing found, or an ending that says nothing about the format.
    """
    endings = ENDINGS.get(format_name) or tuple(e for group in ENDINGS.values() for e in group)
    found = (portable_file(file) for path in paths for file in list_inputs(path, endings))
    files = {file.url: file for file in found}
    return [(file, _format_of(file.url, format_name)) for file in files.values()]


def inspect_shards(
    files: Sequence[tuple[FileInfo, str]],
    *,
    needed: Mapping[str, str],
    unit_rows: int,
    on_bad_shard: str = "fail",
) -> Inspection:
    """Read every shard's footer (Parquet) or all its lines once (jsonl).

    Args:
        files: listing with formats.
        needed: columns that every shard must have, each with its kind: "text", "list" or "any".
        unit_rows: rows of a unit; jsonl offsets are taken every so many lines.
        on_bad_shard: "fail", or "skip" to keep bad shards without rows and say why.
    Raises:
        ConfigError: naming every shard that is unreadable, lacks a needed column or has it in another kind;
            or a store that does not answer.
    """
    jobs = [(index, file, kind, unit_rows) for index, (file, kind) in enumerate(files)]
    looked = map_files(_inspect, jobs)
    shards: list[Shard] = []
    types = _Types()
    for (file, kind), result in zip(files, looked, strict=True):
        fault = result if isinstance(result, str) else _column_faults(result[0], result[1], needed)
        if fault or isinstance(result, str):
            shards.append(Shard(len(shards), file, kind, 0, skipped=fault))
            continue
        shards.append(result[0])
        types.add(result[1], file.url)
    _tell_of_bad([shard for shard in shards if shard.skipped], on_bad_shard)
    return Inspection(tuple(shards), types.schema)


def _tell_of_bad(shards: Sequence[Shard], on_bad_shard: str) -> None:
    faults = [f"{shard.file.url}: {shard.skipped}" for shard in shards]
    if faults and on_bad_shard == "fail":
        raise ConfigError(f"{len(faults)} bad input file(s): " + "; ".join(faults))
    for fault in faults:
        logger.warning("bad_shard_skipped %s", fault)


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
        if url.lower().endswith(endings):
            return name
    raise ConfigError(
        f"input.paths: {url} has none of the endings .parquet .pq .jsonl .ndjson (the latter two also with "
        f"{' '.join(COMPRESSIONS)}); set input.format"
    )


def _inspect(job: tuple[int, FileInfo, str, int]) -> tuple[Shard, pa.Schema] | str:
    """A shard and its schema, or what is wrong with the file."""
    index, file, kind, unit_rows = job
    try:
        if kind == "parquet":
            return read_file(file, lambda handle: _inspect_parquet(index, file, handle), cache="none")
        return read_file(file, lambda handle: _inspect_jsonl(index, file, unit_rows, handle))
    except BadFileError as error:
        return str(error)
    except Exception as error:  # whatever the store's client raises
        raise ConfigError(f"input.paths: cannot read {file.url}: {reason(error)}") from None


def _inspect_parquet(index: int, file: FileInfo, handle: WatchedFile) -> tuple[Shard, pa.Schema]:
    footer = pq.ParquetFile(handle)
    groups = tuple(footer.metadata.row_group(g).num_rows for g in range(footer.num_row_groups))
    schema = pa.schema([(field.name, _without_views(field.type)) for field in footer.schema_arrow])
    return Shard(index, file, "parquet", sum(groups), groups), schema


def _without_views(kind: pa.DataType) -> pa.DataType:
    """The type with large_string for string_view and large_binary for binary_view: Ray cannot send views."""
    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_binary_view(kind):
        return pa.large_binary()
    return kind


def _inspect_jsonl(
    index: int, file: FileInfo, unit_rows: int, handle: WatchedFile
) -> tuple[Shard, pa.Schema]:
    scan = _JsonlScan()
    with uncompressed(handle, file.url) as stream:
        lines: list[bytes] = []
        position = 0
        for line in _lines(stream):
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


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    """Lines with their ends, the last one perhaps without."""
    rest = b""
    while chunk := stream.read(SCAN_BYTES):
        *whole, rest = (rest + chunk).split(b"\n")
        yield from (line + b"\n" for line in whole)
    if rest:
        yield rest


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
    if first == second or pa.types.is_null(second):
        return first
    if pa.types.is_null(first):
        return second
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
