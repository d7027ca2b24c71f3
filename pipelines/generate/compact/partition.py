"""Rows to Parquet files of a target size, one directory for each value of the columns they are parted by."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from orthrus_core.errors import ConfigError
from pipelines.generate.config.compact import Compression
from pipelines.read.shard import NULL
from pipelines.storage.files import join, upload

GROUP_BYTES = 64 * 2**20  # of a row group in memory
WAITING_BYTES = 512 * 2**20  # of all rows that wait for their row group to be full
MOST_PARTITIONS = 1000  # each has a file open
LONGEST_VALUE = 200  # as part of a path, where file systems take 255 with the column's name


class Partition:
    """The files of one directory; those that are written come to be whole at once."""

    def __init__(self, url: str, folder: str, directory: str, file_bytes: int, compression: Compression):
        """Where files go.

        Args:
            url: of the target, which `folder` is below.
            directory: a local one for the file that is being written.
        """
        self._url, self._folder = url, folder
        self._path = os.path.join(directory, hashlib.sha256(folder.encode()).hexdigest())
        self._file_bytes, self._compression = file_bytes, compression
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.Table] = []
        self.waiting_bytes = 0
        self.files: list[dict[str, Any]] = []

    def add(self, table: pa.Table) -> None:
        """Take in rows."""
        self._waiting.append(table)
        self.waiting_bytes += table.nbytes
        if self.waiting_bytes >= min(GROUP_BYTES, self._file_bytes):
            self.flush()

    def flush(self) -> None:
        """Write what waits as a row group, and end the file if it is large enough."""
        if not self._waiting:
            return
        table = pa.concat_tables(self._waiting).unify_dictionaries()
        self._waiting, self.waiting_bytes = [], 0
        if self._writer is None:
            codec, level = self._compression.codec, self._compression.level
            self._writer = pq.ParquetWriter(
                self._path, table.schema, compression=codec, compression_level=level, write_page_checksum=True
            )
        self._writer.write_table(table, row_group_size=max(1, table.num_rows))
        if os.path.getsize(self._path) >= self._file_bytes:
            self._end_file()

    def close(self) -> list[dict[str, Any]]:
        """Write what is left; the files as {name, rows, bytes}."""
        self.flush()
        self._end_file()
        return self.files

    def _end_file(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        self._writer = None
        name = "/".join([*filter(None, [self._folder]), f"part-{len(self.files):05}.parquet"])
        rows, size = pq.read_metadata(self._path).num_rows, os.path.getsize(self._path)
        upload(self._path, join(self._url, name))
        Path(self._path).unlink(missing_ok=True)  # a remote store took a copy
        self.files.append({"name": name, "rows": rows, "bytes": size})


class PartitionedFiles:
    """Files of a target directory, by partition."""

    def __init__(
        self, url: str, columns: Sequence[str], directory: str, file_bytes: int, compression: Compression
    ):
        """Args: columns are those that rows are parted by; the others are as for `Partition`."""
        self._columns = columns
        self._new = lambda folder: Partition(url, folder, directory, file_bytes, compression)
        self._partitions: dict[str, Partition] = {}

    def add(self, table: pa.Table) -> None:
        """Take in rows, which keep their order within a partition.

        Raises:
            ConfigError: too many partitions.
        """
        for folder, rows in split(table, self._columns):
            if folder not in self._partitions:
                self._partitions[folder] = self._new(folder)
            self._partitions[folder].add(rows)
        if len(self._partitions) > MOST_PARTITIONS:
            raise ConfigError(
                f"output.compact.partition_by: {', '.join(self._columns)} has more than {MOST_PARTITIONS} "
                "values; choose a column with fewer"
            )
        while sum(one.waiting_bytes for one in self._partitions.values()) > WAITING_BYTES:
            max(self._partitions.values(), key=lambda one: one.waiting_bytes).flush()

    def close(self) -> list[dict[str, Any]]:
        """Write what is left; all files as {name, rows, bytes}, sorted by name."""
        files = [file for one in self._partitions.values() for file in one.close()]
        return sorted(files, key=lambda file: file["name"])


def split(table: pa.Table, columns: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
    """Rows by directory, in the order in which these first appear; without the columns they are parted by."""
    if not columns:
        yield "", table
        return
    places: dict[tuple[Any, ...], list[int]] = {}
    for place, key in enumerate(zip(*(table.column(name).to_pylist() for name in columns), strict=True)):
        places.setdefault(key, []).append(place)
    rest = table.drop_columns(list(columns))
    for key, rows in places.items():
        parts = (f"{name}={_text(name, value)}" for name, value in zip(columns, key, strict=True))
        yield "/".join(parts), rest.take(pa.array(rows, pa.int64()))


def check_columns(schema: pa.Schema, columns: Sequence[str]) -> None:
    """Refuse columns that make no directories.

    Raises:
        ConfigError: there is no such column, or it holds other than text, whole numbers or bools.
    """
    for name in columns:
        if name not in schema.names:
            raise ConfigError(
                f"output.compact.partition_by: no column {name}; there are {', '.join(schema.names)}"
            )
        if quote(name, safe=" ") != name:
            raise ConfigError(
                f"output.compact.partition_by: {name} is no name for a directory; output.rename gives another"
            )
        kind = schema.field(name).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        fitting = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_boolean)
        if not any(fits(kind) for fits in fitting):
            raise ConfigError(
                f"output.compact.partition_by: column {name} is {kind}, must be text, whole numbers or bool"
            )


def _text(column: str, value: Any) -> str:
    """A value as a part of a path; readers undo the quotes."""
    if value is None:
        return NULL
    text = str(value).lower() if isinstance(value, bool) else quote(str(value), safe="")
    if not 0 < len(text) <= LONGEST_VALUE:
        raise ConfigError(
            f"output.compact.partition_by: column {column} has a value of {len(text)} characters as a path, "
            f"must be 1 to {LONGEST_VALUE}; choose another column"
        )
    return text
