import random
from itertools import islice

import pyarrow as pa
import pytest

from orthrus_core.errors import ConfigError
from pipelines.train.documents import ShardDocuments
from pipelines.train.rows import SHARD_SCHEMA, RowCounts
from pipelines.train.token_shards import TokenIndex, TokenShard, held_out_documents, hold_out, write_table

ROWS = (7, 1, 12)  # of three shards; document i has the prompt [i]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> tuple[str, TokenIndex]:
    url = str(tmp_path_factory.mktemp("shards"))
    shards, start = [], 0
    for number, rows in enumerate(ROWS):
        ids = range(start, start + rows)
        columns = [[[i] for i in ids], [[i, 2] for i in ids]]
        write_table(f"{url}/{number}.parquet", pa.table(columns, schema=SHARD_SCHEMA))
        shards.append(TokenShard(f"{number}.parquet", rows, ""))
        start += rows
    return url, TokenIndex("", "", tuple(hold_out(url, shards, count=4, seed=1)), RowCounts())


def stream(prepared, **options) -> ShardDocuments:
    url, index = prepared
    return ShardDocuments(url, index, **{"seed": 0, "shuffle_documents": 100, **options})


def take(documents: ShardDocuments, count: int) -> list[int]:
    return [document.prompt_ids[0] for document in islice(documents, count)]


def test_held_out_documents_are_those_that_the_seed_draws(prepared):
    held_out = [document.prompt_ids[0] for document in held_out_documents(prepared[0])]
    assert held_out == sorted(random.Random(1).sample(range(20), 4))


@pytest.mark.parametrize("shuffle_documents", [100, 5])
def test_every_epoch_has_all_others_once_in_another_order(prepared, shuffle_documents):
    held_out = {document.prompt_ids[0] for document in held_out_documents(prepared[0])}
    documents = stream(prepared, shuffle_documents=shuffle_documents)
    first, second = take(documents, 16), take(documents, 16)
    assert sorted(first) == sorted(second) == [i for i in range(20) if i not in held_out]
    assert first != second


def test_the_order_follows_from_the_seed(prepared):
    assert take(stream(prepared), 30) == take(stream(prepared), 30)
    assert take(stream(prepared), 30) != take(stream(prepared, seed=1), 30)


def test_ranks_share_an_epoch_out(prepared):
    shares = [take(stream(prepared, rank=rank, world_size=2), 8) for rank in (0, 1)]
    assert sorted(shares[0] + shares[1]) == sorted(take(stream(prepared), 16))


@pytest.mark.parametrize("taken", [0, 1, 15, 16, 17, 40])
def test_a_position_gives_the_documents_behind_it(prepared, taken):
    documents = stream(prepared, shuffle_documents=5)
    take(documents, taken)
    other = stream(prepared, shuffle_documents=5)
    other.load_state_dict(documents.state_dict())
    assert take(other, 25) == take(documents, 25)


def test_only_one_group_of_shards_is_in_memory(prepared):
    documents = stream(prepared, shuffle_documents=5)
    sizes = set()
    for _ in range(32):
        next(documents)
        sizes.add(len(documents._table))
    assert max(sizes) < sum(ROWS)


def test_more_workers_than_documents_are_refused(prepared):
    with pytest.raises(ConfigError, match="scaling.workers must be <= 16, .* got 17"):
        stream(prepared, rank=0, world_size=17)
