from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orthrus_core.errors import ConfigError
from orthrus_core.training.packing import Document
from pipelines.train.config import RowDataConfig
from pipelines.train.data import row_documents, shuffled_epochs, split_documents


def write(path: Path, prompts: list, completions: list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    ids = pa.list_(pa.int32())
    table = pa.table({"prompt_token_ids": pa.array(prompts, ids), "token_ids": pa.array(completions, ids)})
    pq.write_table(table, path)


def test_rows_are_read_in_the_order_of_their_files(tmp_path):
    write(tmp_path / "data" / "part-1.parquet", [[3]], [[4, 2]])
    write(tmp_path / "data" / "part-0.parquet", [[1], [5]], [[9, 2], [6, 7, 2]])
    documents = row_documents(RowDataConfig(path=tmp_path), sequence_len=9)
    assert documents == [Document([1], [9, 2]), Document([5], [6, 7, 2]), Document([3], [4, 2])]


def test_rows_without_two_completion_tokens_are_left_out(tmp_path):
    write(tmp_path / "a.parquet", [[1], [1], [1], None], [None, [], [2], [4, 2]])
    write(tmp_path / "b.parquet", [[1]], [[4, 2]])
    assert row_documents(RowDataConfig(path=tmp_path), sequence_len=9) == [Document([1], [4, 2])]


def test_hidden_and_run_directories_are_not_read(tmp_path):
    write(tmp_path / "a.parquet", [[1]], [[4, 2]])
    write(tmp_path / "_run" / "b.parquet", [[1]], [[5, 2]])
    write(tmp_path / ".tmp-c.parquet", [[1]], [[6, 2]])
    assert len(row_documents(RowDataConfig(path=tmp_path), sequence_len=9)) == 1


def test_missing_files_and_columns_are_named(tmp_path):
    with pytest.raises(ConfigError, match="holds no Parquet files"):
        row_documents(RowDataConfig(path=tmp_path / "absent"), sequence_len=9)
    pq.write_table(pa.table({"completion": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match=r"no column prompt_token_ids, token_ids \(it has completion\)"):
        row_documents(RowDataConfig(path=tmp_path), sequence_len=9)


def test_only_error_rows_are_an_error(tmp_path):
    write(tmp_path / "a.parquet", [[1]], [None])
    with pytest.raises(ConfigError, match="no row with a prompt and a completion"):
        row_documents(RowDataConfig(path=tmp_path), sequence_len=9)


def test_too_long_rows_are_refused_or_dropped_as_told(tmp_path, caplog):
    write(tmp_path / "a.parquet", [[1], [1, 1]], [[4, 2], [4, 2]])
    with pytest.raises(ConfigError, match="1 of 2 rows longer than packing.sequence_len 3"):
        row_documents(RowDataConfig(path=tmp_path), sequence_len=3)
    config = RowDataConfig(path=tmp_path, too_long="drop")
    assert row_documents(config, sequence_len=3) == [Document([1], [4, 2])]
    assert "dropped rows=1 of=2" in caplog.text


def test_held_out_documents_are_never_trained_on():
    documents = [Document([i], [i, 2]) for i in range(10)]
    held_out, others = split_documents(documents, num_held_out=3, seed=0)
    assert len(held_out) == 3
    assert sorted(d.prompt_ids[0] for d in held_out + others) == list(range(10))
    with pytest.raises(ConfigError, match="only 10 documents"):
        split_documents(documents, num_held_out=10, seed=0)


def test_every_epoch_has_every_document_in_another_order():
    documents = [Document([i], [i, 2]) for i in range(20)]
    stream = shuffled_epochs(documents, seed=0)
    first, second = ([d.prompt_ids[0] for d in islice(stream, 20)] for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second
