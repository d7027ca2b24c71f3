"""Prepared data below a run's directory: Parquet shards of token ids, and an index that is written last."""

import io
import json
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from orthrus_core.errors import ConfigError
from orthrus_core.training.packing import Document
from pipelines.storage.files import join, open_file, put, read_bytes
from pipelines.train.rows import SHARD_SCHEMA, RowCounts

INDEX = "index.json"
HELD_OUT = "held-out.parquet"


@dataclass(frozen=True)
class TokenShard:
    """One file of documents.

    Attributes:
        name: of the file. num_documents: rows in it.
        digest: of its token ids.
        held_out: rows that are not trained on, ascending.
    """

    name: str
    num_documents: int
    digest: str
    held_out: tuple[int, ...] = ()


@dataclass(frozen=True)
class TokenIndex:
    """What has been prepared.

    Attributes:
        key: of the source and of the rules by which it was prepared.
        fingerprint: of the documents themselves, in order.
        counts: of all rows.
    """

    key: str
    fingerprint: str
    shards: tuple[TokenShard, ...]
    counts: RowCounts

    def to_json(self) -> bytes:
        """The index as a file."""
        return json.dumps(asdict(self)).encode()

    @staticmethod
    def from_json(content: bytes) -> "TokenIndex":
        """Inverse of `to_json`."""
        tree = json.loads(content)
        shards = tuple(TokenShard(**{**s, "held_out": tuple(s["held_out"])}) for s in tree["shards"])
        return TokenIndex(tree["key"], tree["fingerprint"], shards, RowCounts(**tree["counts"]))


def read_index(url: str) -> TokenIndex | None:
    """The index of a directory, or None where nothing is prepared (to the end)."""
    stored = read_bytes(join(url, INDEX))
    return None if stored is None else TokenIndex.from_json(stored)


def write_table(url: str, table: pa.Table) -> None:
    """Write documents as one file, whole or not at all."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    put(url, buffer.getvalue())


class DocumentTable:
    """Documents of one or more files, 4 bytes a token."""

    def __init__(self, table: pa.Table) -> None:
        """Args: table of SHARD_SCHEMA."""
        self._columns = table.combine_chunks().columns

    def __len__(self) -> int:
        return len(self._columns[0])

    def __getitem__(self, row: int) -> Document:
        return Document(*(column[row].values.to_numpy().tolist() for column in self._columns))


def read_shards(url: str, names: Sequence[str]) -> DocumentTable:
    """The documents of some files of a directory, in order."""
    tables = [SHARD_SCHEMA.empty_table()]
    for name in names:
        with open_file(join(url, name)) as handle:
            tables.append(pq.read_table(handle).cast(SHARD_SCHEMA))
    return DocumentTable(pa.concat_tables(tables))


def held_out_documents(url: str) -> list[Document]:
    """The documents that are not trained on."""
    table = read_shards(url, [HELD_OUT])
    return [table[row] for row in range(len(table))]


def check_held_out(count: int, total: int) -> None:
    """Refuse to keep all documents out of training.

    Raises:
        ConfigError: nothing would be left to train on.
    """
    if count >= total:
        raise ConfigError(
            f"data.held_out_documents must be below the {total} documents that can be used, got {count}"
        )


def hold_out(url: str, shards: Sequence[TokenShard], *, count: int, seed: int) -> list[TokenShard]:
    """Draw documents to keep out of training and write them as a file of their own.

    Raises:
        ConfigError: nothing would be left to train on.
    """
    total = sum(shard.num_documents for shard in shards)
    check_held_out(count, total)
    chosen = sorted(random.Random(seed).sample(range(total), count))
    by_shard = _by_shard(shards, chosen)
    tables = []
    for index, rows in by_shard.items():
        with open_file(join(url, shards[index].name)) as handle:
            tables.append(pq.read_table(handle).take(rows).cast(SHARD_SCHEMA))
    write_table(join(url, HELD_OUT), pa.concat_tables(tables))
    return [
        TokenShard(shard.name, shard.num_documents, shard.digest, tuple(by_shard.get(index, ())))
        for index, shard in enumerate(shards)
    ]


def _by_shard(shards: Sequence[TokenShard], chosen: Sequence[int]) -> dict[int, list[int]]:
    """Shard number and rows within it, of ascending numbers over all shards."""
    starts = np.cumsum([0, *(shard.num_documents for shard in shards)])
    places: dict[int, list[int]] = defaultdict(list)
    for number in chosen:
        index = int(np.searchsorted(starts, number, side="right")) - 1
        places[index].append(int(number - starts[index]))
    return places
