"""One input file: what is in it, looked at once before anything is generated."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from orthrus_core.errors import ConfigError
from pipelines.read.arrow_types import plain_type
from pipelines.read.input_file import BadFileError, WatchedFile, read_file, uncompressed
from pipelines.read.jsonl import (
    BOM,
    OPENINGS,
    SCAN_BYTES,
    SCAN_LINES,
    JsonColumns,
    array_spans,
    describe_line,
    split_lines,
)
from pipelines.storage.errors import reason
from pipelines.storage.file_info import FileInfo

NULL = "__HIVE_DEFAULT_PARTITION__"  # what Hive, Spark and pyarrow write for null


@dataclass(frozen=True)
class Shard:
    """One input file.

    Attributes:
        index: number in the sorted listing.
        file: where and how large it is.
        format: "parquet", "jsonl" (one object a line) or "json" (one array).
        num_rows: rows in it.
        row_groups: rows of each Parquet row group; else empty.
        offsets: not of Parquet: byte where each unit's first row begins, then where the last row ends; of a
            compressed file, bytes of its content.
        skipped: why nothing is read from it; None: all of it is.
        partitions: columns that the path says.
    """

    index: int
    file: FileInfo
    format: str
    num_rows: int
    row_groups: tuple[int, ...] = ()
    offsets: tuple[int, ...] = ()
    skipped: str | None = None
    partitions: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Look:
    """A file to look into; the attributes are those of `Shard` and of `shards.inspect_shards`."""

    index: int
    file: FileInfo
    format: str
    unit_rows: int
    needed: Mapping[str, str]
    carried: Collection[str] | None
    has_partitions: bool

    @property
    def partitions(self) -> dict[str, str | None]:
        """Columns that the path says."""
        return path_columns(self.file.url) if self.has_partitions else {}


def inspect(job: Look) -> tuple[Shard, pa.Schema | JsonColumns] | str:
    """A shard and its columns, or what is wrong with the file."""
    try:
        if job.format == "parquet":
            return read_file(job.file, lambda handle: _inspect_parquet(job, handle), cache="none")
        return read_file(job.file, lambda handle: _inspect_json(job, handle))
    except BadFileError as error:
        return str(error)
    except Exception as error:  # whatever the store's client raises
        raise ConfigError(f"input.paths: cannot read {job.file.url}: {reason(error)}") from None


def _inspect_parquet(job: Look, handle: WatchedFile) -> tuple[Shard, pa.Schema]:
    footer = pq.ParquetFile(handle)
    groups = tuple(footer.metadata.row_group(g).num_rows for g in range(footer.num_row_groups))
    fields = [(field.name, plain_type(field.type)) for field in footer.schema_arrow]
    fields += [(name, pa.string()) for name in job.partitions if name not in footer.schema_arrow.names]
    shard = Shard(job.index, job.file, "parquet", sum(groups), groups, partitions=job.partitions)
    return shard, pa.schema(fields)


def _inspect_json(job: Look, handle: WatchedFile) -> tuple[Shard, JsonColumns]:
    """A file of one object a line, or of one array, where the first character says so."""
    with uncompressed(handle, job.file.url) as stream:
        head = stream.read(SCAN_BYTES) if job.format == "json" else b""
        if head.removeprefix(BOM).lstrip().startswith(b"["):
            found, columns = _inspect_array(job, head + b"".join(iter(lambda: stream.read(SCAN_BYTES), b"")))
        else:
            found, columns = _inspect_lines(job, split_lines(stream, head))
    columns.add_texts(job.partitions)
    return replace(found, partitions=job.partitions), columns


def _inspect_lines(job: Look, stream: Iterable[bytes]) -> tuple[Shard, JsonColumns]:
    columns, offsets, lines = JsonColumns(job.needed, job.carried), [], []
    position, num_rows, first, has_rows = 0, 0, b"", False
    for line in stream:
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


def _inspect_array(job: Look, content: bytes) -> tuple[Shard, JsonColumns]:
    columns, spans = JsonColumns(job.needed, job.carried), array_spans(content)
    has_rows = False
    for start in range(0, len(spans), SCAN_LINES):
        has_rows |= columns.add_lines([content[a:b] for a, b in spans[start : start + SCAN_LINES]])
    if spans and not has_rows:
        raise BadFileError("no element of the array is an object")
    offsets = [first for first, _ in spans[:: job.unit_rows]] + [last for _, last in spans[-1:]]
    return Shard(job.index, job.file, "json", len(spans), offsets=tuple(offsets)), columns


def path_columns(url: str) -> dict[str, str | None]:
    """Columns by name, in the order of the path; values are text."""
    pairs = [folder.partition("=") for folder in url.split("/")[:-1]]
    return {
        unquote(name): None if value == NULL else unquote(value)
        for name, mark, value in pairs
        if name and mark
    }
