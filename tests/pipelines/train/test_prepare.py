import json
from pathlib import Path

import pyarrow as pa
import pytest

from orthrus_core.errors import ConfigError, OrthrusError
from pipelines.storage.config import StorageConfig
from pipelines.storage.files import list_directory
from pipelines.train.config import RowDataConfig
from pipelines.train.prepare import failures_in_one_line, prepare_data
from pipelines.train.rows import RowRules
from pipelines.train.source import find_rows
from pipelines.train.token_shards import TokenIndex, held_out_documents, read_index, read_shards
from tests.pipelines.train.conftest import write_rows

RULES = RowRules(max_tokens=9, vocab_size=50, mask_token_id=49)


def prepare(
    data: Path, url: Path, *, rules: RowRules = RULES, with_ray: bool = False, **options
) -> TokenIndex:
    config = RowDataConfig(path=data, **{"held_out_documents": 1, **options})
    source = find_rows(config, str(url))
    return prepare_data(
        source, config, rules=rules, seed=0, url=str(url), storage=StorageConfig(), with_ray=with_ray
    )


def documents(url: Path, index: TokenIndex) -> list[tuple[list[int], list[int]]]:
    table = read_shards(str(url), [shard.name for shard in index.shards])
    return [(table[row].prompt_ids, table[row].completion_ids) for row in range(len(table))]


@pytest.fixture
def data(tmp_path) -> Path:
    path = tmp_path / "in"
    write_rows(path / "part-1.parquet", [[3]], [[4, 2]])
    write_rows(path / "part-0.parquet", [[1], [5], [6]], [[9, 2], [6, 7, 2], [8, 2]])
    return path


def test_rows_are_prepared_in_the_order_of_their_files(data, tmp_path):
    index = prepare(data, tmp_path / "out")
    found = documents(tmp_path / "out", index)
    assert found == [([1], [9, 2]), ([5], [6, 7, 2]), ([6], [8, 2]), ([3], [4, 2])]
    assert (index.counts.used, index.counts.tokens, sum(len(s.held_out) for s in index.shards)) == (4, 13, 1)


def test_files_are_cut_into_shards_of_unit_rows(data, tmp_path):
    index = prepare(data, tmp_path / "out", unit_rows=2)
    assert [shard.num_documents for shard in index.shards] == [2, 1, 1]
    assert len(documents(tmp_path / "out", index)) == 4


@pytest.mark.ray
def test_ray_data_prepares_the_same_index(data, tmp_path, local_ray):
    here = prepare(data, tmp_path / "here", unit_rows=2)
    assert prepare(data, tmp_path / "ray", unit_rows=2, with_ray=True) == here


def test_what_is_prepared_is_not_prepared_again(data, tmp_path):
    index = prepare(data, tmp_path / "out")
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()}
    assert prepare(data, tmp_path / "out") == index
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()} == times


@pytest.mark.parametrize("what", ["data", "rules", "held_out"])
def test_other_data_or_rules_are_prepared_anew(data, tmp_path, what):
    index = prepare(data, tmp_path / "out")
    if what == "data":
        write_rows(data / "part-2.parquet", [[7]], [[7, 2]])
    rules = RowRules(8, 50, 49) if what == "rules" else RULES
    again = prepare(data, tmp_path / "out", rules=rules, held_out_documents=2 if what == "held_out" else 1)
    assert again.key != index.key
    assert (again.fingerprint != index.fingerprint) == (what == "data")


def test_a_preparation_that_dies_is_not_taken_for_one(data, tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.train.prepare.hold_out", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prepare(data, tmp_path / "out")
    assert list_directory(str(tmp_path / "out"))
    assert read_index(str(tmp_path / "out")) is None


def test_error_rows_and_those_without_completion_are_counted(tmp_path):
    errors = pa.array([None, "too long", None, None], pa.string())
    write_rows(
        tmp_path / "in" / "a.parquet", [[1], [1], [2], [5]], [[4, 2], [4, 2], [2], [6, 2]], error=errors
    )
    index = prepare(tmp_path / "in", tmp_path / "out")
    assert documents(tmp_path / "out", index) == [([1], [4, 2]), ([5], [6, 2])]
    assert (index.counts.errors, index.counts.no_completion, index.counts.rows) == (1, 1, 4)


def test_jsonl_is_read_as_the_generate_job_reads_it(tmp_path):
    rows = [{"prompt_token_ids": [1], "token_ids": [4, 2]}, {"prompt_token_ids": [5], "token_ids": [6, 2]}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    index = prepare(tmp_path / "a.jsonl", tmp_path / "out")
    assert documents(tmp_path / "out", index) == [([1], [4, 2]), ([5], [6, 2])]


def test_too_long_rows_are_refused_or_dropped_as_told(tmp_path):
    write_rows(tmp_path / "in" / "a.parquet", [[1], [1, 1], [1]], [[4, 2], [4, 2], [5, 2]])
    rules = RowRules(max_tokens=3, vocab_size=50)
    with pytest.raises(
        ConfigError, match="1 of 3 rows longer than packing.sequence_len 3: raise it, or set data.t"
    ):
        prepare(tmp_path / "in", tmp_path / "out", rules=rules)
    index = prepare(tmp_path / "in", tmp_path / "out", rules=rules, too_long="drop")
    assert documents(tmp_path / "out", index) == [([1], [4, 2]), ([1], [5, 2])]
    assert index.counts.too_long == 1


def test_held_out_rows_are_a_file_of_their_own(data, tmp_path):
    index = prepare(data, tmp_path / "out", held_out_documents=2)
    held_out = [document.prompt_ids for document in held_out_documents(str(tmp_path / "out"))]
    rows = [p for p, _ in documents(tmp_path / "out", index)]
    places = [row for shard in index.shards for row in shard.held_out]
    assert len(held_out) == len(places) == 2
    assert all(prompt in rows for prompt in held_out)


def test_what_a_stage_of_ray_raised_is_told_and_not_rays_advice():
    text = "  File x\npyarrow.lib.ArrowInvalid: bad\n\nray.exceptions.UserCodeException: x\nTo change"
    with (
        pytest.raises(OrthrusError, match="preparing the data failed: ArrowInvalid: bad; "),
        failures_in_one_line(),
    ):
        raise RuntimeError(text)
