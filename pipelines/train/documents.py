"""Prepared documents in a seeded order, epoch after epoch, each rank with a share of its own."""

import random
from collections.abc import Iterator
from typing import Any

from orthrus_core.errors import ConfigError
from orthrus_core.training.packing import Document
from pipelines.train.token_shards import DocumentTable, TokenIndex, read_shards


class ShardDocuments:
    """An endless stream of the documents that are not held out.

    Each epoch puts the shards into a new order, joins neighbours to groups of at least `shuffle_documents`
    documents and shuffles within each group, of which rank r of w takes every w-th document from the r-th on.
    Only one group is in memory, as flat arrays. All of it follows from the seed, so that (epoch, group,
    documents taken) is the whole position.
    """

    def __init__(
        self,
        url: str,
        index: TokenIndex,
        *,
        seed: int,
        shuffle_documents: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Stand at the beginning.

        Raises:
            ConfigError: fewer documents than ranks.
        """
        self._url, self._index, self._seed = url, index, seed
        self._shuffle_documents = shuffle_documents
        self._rank, self._world_size = rank, world_size
        self._epoch = self._group = self._taken = 0
        self._table: DocumentTable | None = None
        self._order: list[int] = []
        left = sum(shard.num_documents - len(shard.held_out) for shard in index.shards)
        if left < world_size:
            raise ConfigError(
                f"scaling.workers must be <= {left}, the documents to train on, got {world_size}"
            )

    def __iter__(self) -> Iterator[Document]:
        return self

    def __next__(self) -> Document:
        while self._taken >= len(self._order):
            if self._table is not None:
                self._group, self._taken = self._group + 1, 0
            self._open_group()
        assert self._table is not None
        self._taken += 1
        return self._table[self._order[self._taken - 1]]

    def state_dict(self) -> dict[str, Any]:
        """The position."""
        return {"epoch": self._epoch, "group": self._group, "taken": self._taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position."""
        self._epoch, self._group, self._taken = state["epoch"], state["group"], state["taken"]
        self._open_group()

    def _open_group(self) -> None:
        """Read the group's shards and put this rank's share in order; behind the last, the next epoch's."""
        groups = self._groups()
        if self._group >= len(groups):
            self._epoch, self._group, self._taken = self._epoch + 1, 0, 0
            groups = self._groups()
        shards = [self._index.shards[number] for number in groups[self._group]]
        self._table = None  # before the next is read
        self._table = read_shards(self._url, [shard.name for shard in shards])
        rows, start = [], 0
        for shard in shards:
            left_out = set(shard.held_out)
            rows += [start + row for row in range(shard.num_documents) if row not in left_out]
            start += shard.num_documents
        self._random(self._group).shuffle(rows)
        self._order = rows[self._rank :: self._world_size]

    def _groups(self) -> list[list[int]]:
        """Numbers of the shards of each of this epoch's groups."""
        order = list(range(len(self._index.shards)))
        self._random("shards").shuffle(order)
        groups: list[list[int]] = [[]]
        held = 0
        for number in order:
            if held >= self._shuffle_documents:
                groups.append([])
                held = 0
            groups[-1].append(number)
            held += self._index.shards[number].num_documents
        return groups

    def _random(self, what: int | str) -> random.Random:
        return random.Random(f"{self._seed}/{self._epoch}/{what}")
