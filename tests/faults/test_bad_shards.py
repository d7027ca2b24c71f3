"""Input files that are damaged, among good ones."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orthrus_core.errors import ConfigError, OrthrusError
from tests.fakes import fake_engine
from tests.faults.conftest import stub_tree
from tests.faults.damage import spoil_footer, truncate
from tests.faults.runs import compare
from tests.pipelines.conftest import run_tree

pytestmark = [pytest.mark.fault, pytest.mark.ray, pytest.mark.timeout(300)]


@pytest.fixture
def shards(few_prompts, tmp_path) -> Path:
    """A copy of the four shards."""
    return shutil.copytree(few_prompts, tmp_path / "prompts")


def other_schema(path: Path) -> None:
    pq.write_table(pa.table({"text": ["x"] * 80}), path)


@pytest.mark.parametrize("damage", [truncate, spoil_footer, other_schema])
def test_a_bad_shard_fails_the_run_before_it_begins_or_is_skipped_and_reported(
    stub_ray, shards, few_texts, tmp_path, table, damage
):
    damage(shards / "2.parquet")
    tree = stub_tree(shards, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"1 bad input file\(s\): .*2.parquet") as caught:
        run_tree(tree, fake_engine)
    assert not (tmp_path / "out").exists()
    tree["input"]["on_bad_shard"] = "skip"
    _, report = run_tree(tree, fake_engine)
    good = {key: text for key, text in few_texts.items() if not 160 <= int(key[0][4:]) < 240}
    scenario = f"a shard of four is bad ({damage.__name__})"
    said = f"fail: {str(caught.value)[:60]}; skip: done"
    table.assert_whole(scenario, tmp_path / "out", good, faults=1, runs=2, said=said)
    assert "2.parquet" in json.dumps(report)


def test_a_shard_with_a_damaged_page_fails_after_the_good_ones_or_becomes_error_rows(
    stub_ray, shards, few_texts, tmp_path, table
):
    path = shards / "2.parquet"
    content = bytearray(path.read_bytes())
    content[4:200] = bytes(b ^ 0x5A for b in content[4:200])
    path.write_bytes(content)
    tree = stub_tree(shards, tmp_path / "out")
    with pytest.raises(OrthrusError, match=r"2.parquet") as caught:
        run_tree(tree, fake_engine)
    assert not (tmp_path / "out/_run/_SUCCESS").exists()
    tree["input"]["on_bad_shard"] = "skip"
    tree["output"]["path"] = str(tmp_path / "other")
    _, report = run_tree(tree, fake_engine)
    good = {key: text for key, text in few_texts.items() if not 160 <= int(key[0][4:]) < 240}
    outcome = compare(str(tmp_path / "other"), few_texts)
    partial = compare(str(tmp_path / "other"), good)
    said = f"fail: {str(caught.value)[:60]}; skip: {report['errors']} error rows"
    table.add("a shard's data page is bit-flipped", outcome, faults=1, runs=2, said=said)
    assert (outcome.rows_in, outcome.duplicates, partial.differing) == (outcome.rows_out, 0, 0)
    assert report["errors"] == 80
