"""Input files: what is in each, looked at once before anything is generated."""

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from orthrus_core.errors import ConfigError
from pipelines.read.arrow_types import JSON_TEXT, join_types, plain_type
from pipelines.read.input_file import COMPRESSIONS, BadFileError, WatchedFile, read_file, uncompressed
from pipelines.read.jsonl import OPENINGS, SCAN_LINES, JsonColumns, describe_line, split_lines
from pipelines.storage.errors import reason
from pipelines.storage.file_info import FileInfo
from pipelines.storage.files import map_files
from pipelines.storage.listing import list_inputs
from pipelines.storage.working_dir import portable_file

ENDINGS = {
    "parquet": (".parquet", ".pq"),
    "jsonl": tuple(name + packed for name in (".jsonl", ".ndjson") for packed in ("", *COMPRESSIONS)),
}

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
        schema: union of their columns; where types differ between shards, the wider one, and JSON_TEXT where
            values of jsonl have none in common.
    """

    shards: tuple[Shard, ...]
    schema: pa.Schema


class _Types:
    """Columns of all shards in the order in which they first appear, each as wide as any of them needs."""

    def __init__(self, needed: Collection[str], carried: Collection[str] | None):
        self._needed = needed
        self._carried = carried
        self._types: dict[str, pa.DataType] = {}
        self._seen: list[pa.Schema] = []  # shards mostly have one and the same schema

    def add(self, schema: pa.Schema, url: str) -> None:
        """Take in a shard's columns; raises ConfigError where one that is used fits no earlier one."""
        if any(schema.equals(seen) for seen in self._seen):
            return
        for column in schema:
            earlier = self._types.get(column.name, pa.null())
            wider = join_types(earlier, column.type)
            if wider is None and _is_used(column.name, self._needed, self._carried):
                repair = "make the files agree"
                if column.name not in self._needed:
                    repair = f"leave it out with input.carry, or {repair}"
                raise ConfigError(
                    f"column {column.name} is {_shown(earlier)} in earlier files and {_shown(column.type)} "
                    f"in {url}; {repair}"
                )
            self._types[column.name] = earlier if wider is None else wider
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
    carried: Collection[str] | None = None,
) -> Inspection:
    """Read every shard's footer (Parquet) or all its lines once (jsonl).

    Args:
        files: listing with formats.
        needed: columns that every shard must have, each with its kind: "text", "list" or "any".
        unit_rows: rows of a unit; jsonl offsets are taken every so many lines.
        on_bad_shard: "fail", or "skip" to keep bad shards without rows and say why.
        carried: other columns that are read, where a shard has them; None: all. The rest does not matter.
    Raises:
        ConfigError: naming every shard that is unreadable, lacks a needed column or has it in another kind;
            or a store that does not answer; or a column in types that have none in common.
    """
    jobs = [_Look(index, file, kind, unit_rows, needed, carried) for index, (file, kind) in enumerate(files)]
    looked = map_files(_inspect, jobs)
    shards: list[Shard] = []
    types, lines = _Types(needed, carried), JsonColumns(needed, carried)
    for (file, kind), result in zip(files, looked, strict=True):
        fault = result if isinstance(result, str) else _column_faults(result[0], result[1], needed, carried)
        if fault or isinstance(result, str):
            shards.append(Shard(len(shards), file, kind, 0, skipped=fault))
            continue
        shards.append(result[0])
        if isinstance(result[1], JsonColumns):
            lines.join(result[1])
        else:
            types.add(result[1], file.url)
    _tell_of_bad([shard for shard in shards if shard.skipped], on_bad_shard)
    types.add(lines.schema, "jsonl")
    _tell_of_json(types.schema, carried)
    return Inspection(tuple(shards), types.schema)


def _tell_of_bad(shards: Sequence[Shard], on_bad_shard: str) -> None:
    faults = [f"{shard.file.url}: {shard.skipped}" for shard in shards]
    if faults and on_bad_shard == "fail":
        raise ConfigError(f"{len(faults)} bad input file(s): " + "; ".join(faults))
    for fault in faults:
        logger.warning("bad_shard_skipped %s", fault)


def _tell_of_json(schema: pa.Schema, carried: Collection[str] | None) -> None:
    as_text = [f.name for f in schema if f.type == JSON_TEXT and _is_used(f.name, (), carried)]
    if as_text:
        logger.warning(
            "carried_as_json_text columns=%s: their values have no type in common", ",".join(as_text)
        )


def _shown(kind: pa.DataType) -> str:
    return "of several types" if kind == JSON_TEXT else str(kind)


def _is_used(name: str, needed: Collection[str], carried: Collection[str] | None) -> bool:
    return carried is None or name in needed or name in carried


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


@dataclass(frozen=True)
class _Look:
    """A file to look into; the attributes are those of `Shard` and of `inspect_shards`."""

    index: int
    file: FileInfo
    format: str
    unit_rows: int
    needed: Mapping[str, str]
    carried: Collection[str] | None


def _inspect(job: _Look) -> tuple[Shard, pa.Schema | JsonColumns] | str:
    """A shard and its columns, or what is wrong with the file."""
    try:
        if job.format == "parquet":
            return read_file(job.file, lambda handle: _inspect_parquet(job, handle), cache="none")
        return read_file(job.file, lambda handle: _inspect_jsonl(job, handle))
    except BadFileError as error:
        return str(error)
    except Exception as error:  # whatever the store's client raises
        raise ConfigError(f"input.paths: cannot read {job.file.url}: {reason(error)}") from None


def _inspect_parquet(job: _Look, handle: WatchedFile) -> tuple[Shard, pa.Schema]:
    footer = pq.ParquetFile(handle)
    groups = tuple(footer.metadata.row_group(g).num_rows for g in range(footer.num_row_groups))
    schema = pa.schema([(field.name, plain_type(field.type)) for field in footer.schema_arrow])
    return Shard(job.index, job.file, "parquet", sum(groups), groups), schema


def _inspect_jsonl(job: _Look, handle: WatchedFile) -> tuple[Shard, JsonColumns]:
    columns, offsets, lines = JsonColumns(job.needed, job.carried), [], []
    position, num_rows, first, has_rows = 0, 0, b"", False
    with uncompressed(handle, job.file.url) as stream:
        for line in split_lines(stream):
            if line.strip():
                if num_rows % job.unit_rows == 0:
                    offsets.append(position)
                num_rows += 1
                first = first or line
                lines.append(line)
            position += len(line)
            if len(lines) == SCAN_LINES:
                has_rows |= columns.add_lines(lines)
                lines = []
        has_rows |= columns.add_lines(lines)
    if num_rows and (not has_rows or first.strip() in OPENINGS):
        raise BadFileError(f"no JSON lines; the first line is {describe_line(first)}")
    return Shard(job.index, job.file, "jsonl", num_rows, offsets=(*offsets, position)), columns


def _column_faults(
    shard: Shard, columns: pa.Schema | JsonColumns, needed: Mapping[str, str], carried: Collection[str] | None
) -> str:
    """What is wrong with a file's columns; empty if nothing is."""
    if shard.num_rows == 0:
        return ""
    schema = columns if isinstance(columns, pa.Schema) else columns.schema
    absent = [name for name in needed if name not in schema.names]
    if absent:
        return f"no column {', '.join(absent)} (it has {', '.join(schema.names) or 'none'})"
    if shard.format == "jsonl":
        return ""  # values of the wrong type are error rows there
    twice = [n for n, count in Counter(schema.names).items() if count > 1 and _is_used(n, needed, carried)]
    if twice:
        repair = "" if any(name in needed for name in twice) else ", or leave it out with input.carry"
        return f"more than one column {', '.join(twice)}; rename one{repair}"
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
    return isinstance(kind, pa.JsonType) or pa.types.is_string(kind) or pa.types.is_large_string(kind)
