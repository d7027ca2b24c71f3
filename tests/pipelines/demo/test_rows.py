from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from orthrus_core.errors import ConfigError
from pipelines import demo
from pipelines.demo.rows import write_given_text, write_prompts, write_training_prompts
from pipelines.demo.tasks import split_of

SHIPPED = Path(demo.__file__).parent / "prompts"


def _read(path: Path) -> list[pa.Table]:
    return [pq.read_table(file) for file in sorted(path.glob("*.parquet"))]


def test_the_shipped_prompts_are_what_the_generator_writes(tmp_path):
    write_prompts(tmp_path)
    assert pa.concat_tables(_read(tmp_path)).equals(pa.concat_tables(_read(SHIPPED)))


def test_the_shipped_shards_hold_500_rows_in_uneven_shares():
    assert [len(table) for table in _read(SHIPPED)] == [50, 100, 150, 200]


def test_every_column_is_a_string_and_ids_and_prompts_are_unique():
    table = pa.concat_tables(_read(SHIPPED))
    assert table.column_names == ["id", "kind", "prompt", "answer"]
    assert all(kind == pa.string() for kind in table.schema.types)
    assert len(set(table["id"].to_pylist())) == len(set(table["prompt"].to_pylist())) == 500


def test_shipped_prompts_are_held_out():
    assert {split_of(prompt) for table in _read(SHIPPED) for prompt in table["prompt"].to_pylist()} == {
        "heldout"
    }


def test_training_prompts_come_from_the_training_split(tmp_path):
    write_training_prompts(tmp_path, num_rows=101, num_shards=3, seed=9)
    tables = _read(tmp_path)
    assert sum(len(table) for table in tables) == 101
    assert {split_of(prompt) for table in tables for prompt in table["prompt"].to_pylist()} == {"train"}


def test_given_text_is_the_training_prompts_with_their_tasks_completions(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED.with_name("model"))
    write_training_prompts(tmp_path / "prompts", num_rows=30, num_shards=2, seed=2)
    write_given_text(tmp_path / "given", tokenizer, num_rows=30, num_shards=2, seed=2)
    prompts = pa.concat_tables(_read(tmp_path / "prompts")).to_pylist()
    given = pa.concat_tables(_read(tmp_path / "given")).to_pylist()
    assert [row["id"] for row in given] == [row["id"] for row in prompts]
    for row, source in zip(given, prompts, strict=True):
        assert source["prompt"] in tokenizer.decode(row["prompt_token_ids"])
        assert row["token_ids"][-1] == tokenizer.eos_token_id
        completion = tokenizer.decode(row["token_ids"])
        assert all(f"Answer: {part}" in completion for part in source["answer"].split("\n"))


@pytest.mark.parametrize("num_shards", [0, 4])
def test_more_shards_than_rows_are_refused(tmp_path, num_shards):
    with pytest.raises(ConfigError, match="num_shards must be in"):
        write_prompts(tmp_path, num_rows=3, num_shards=num_shards)
