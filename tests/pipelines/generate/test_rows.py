"""Options of rows, samples, filters, copies and repairs in whole runs on Ray."""

import json
from functools import partial

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch

from orthrus_core import Engine, EngineConfig, SamplingParams, load_model
from pipelines.checkpoint.directory import load_tokenizer
from pipelines.generate.build import run_job
from pipelines.generate.watch.progress import Progress
from tests.fakes import FakeEngine
from tests.pipelines.conftest import generate_tree, job_of, run_tree

pytestmark = [pytest.mark.ray, pytest.mark.timeout(480)]

NUM_ROWS = 24


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    """Rows with options of their own; all come twice, but one seed is bad and one prompt is null."""
    numbers = range(NUM_ROWS)
    seeds = [n % 12 for n in numbers]
    prompts: list[str | None] = [f"Add {n % 12} and 1." for n in numbers]
    seeds[5], prompts[7] = -1, None
    columns = {
        "id": pa.array([f"row-{n}" for n in numbers]),
        "prompt": pa.array(prompts, pa.string()),
        "seed": pa.array(seeds, pa.int64()),
        "heat": pa.array([None if n % 3 == 0 else 1.5 for n in range(12)] * 2, pa.float64()),
        "count": pa.array([1 + n % 3 for n in range(12)] * 2, pa.int8()),
        "ends": pa.array([["e", "a"] if n % 4 == 0 else None for n in range(12)] * 2, pa.list_(pa.string())),
    }
    return pa.table(columns)


@pytest.fixture(scope="module")
def run(local_ray, model_dir, rows, tmp_path_factory):
    """A run with everything at once: (job, report)."""
    path = tmp_path_factory.mktemp("rows")
    (path / "prompts").mkdir()
    pq.write_table(rows, path / "prompts/a.parquet", row_group_size=8)
    tree = generate_tree(model_dir, path / "prompts", path / "out", unit_rows=8)
    columns = {"seed": "seed", "temperature": "heat", "n": "count", "stop": "ends"}
    tree["sampling"] = {"max_new_tokens": 12, "columns": columns}
    tree["output"]["filters"] = {"min_tokens": 3}
    tree["run"]["dedup"] = True
    return run_tree(tree)


def expected_tokens(model_dir, rows) -> dict[tuple[str, int], list[int]]:
    """(id, sample) to tokens, each by plain AR decoding alone."""
    torch.set_num_threads(1)
    tokenizer = load_tokenizer(str(model_dir))
    config = EngineConfig(mode="autoregressive", max_context=256, max_sequences=4)
    engine = Engine(load_model(str(model_dir), dtype=torch.float32), config, tokenizer=tokenizer)
    found = {}
    for row in rows.to_pylist():
        if row["prompt"] is None or row["seed"] < 0:
            continue
        params = SamplingParams(
            max_new_tokens=12, temperature=row["heat"] or 0.0, seed=row["seed"], stop=tuple(row["ends"] or ())
        )
        message = [{"role": "user", "content": row["prompt"]}]
        prompt = tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=False)
        completions = engine.generate([prompt], params, num_samples=row["count"])
        found |= {(row["id"], i): completion.token_ids for i, completion in enumerate(completions)}
    return found


def test_every_sample_of_every_row_is_what_plain_ar_decoding_writes(run, model_dir, rows):
    job, _ = run
    columns = ["id", "sample", "token_ids", "error"]
    written = [
        row
        for url in (job.ledger.data_url, job.ledger.dropped_url)
        for row in ds.dataset(url).to_table(columns).to_pylist()
    ]
    expected = expected_tokens(model_dir, rows)
    fine = {(row["id"], row["sample"]): row["token_ids"] for row in written if row["error"] is None}
    assert fine == expected
    assert len(written) == len(expected) + 2
    assert {row["id"]: row["error"] for row in written if row["error"] is not None} == {
        "row-5": "column seed: seed must be >= 0, got -1",
        "row-7": "prompt column prompt is null",
    }


def test_rows_stand_in_the_order_of_input_and_sample(run):
    job, _ = run
    table = ds.dataset(job.ledger.data_url).to_table(["id", "sample", "completion_tokens", "error"])
    keys = [(int(row["id"].removeprefix("row-")), row["sample"]) for row in table.to_pylist()]
    assert keys == sorted(set(keys))
    assert all(row["completion_tokens"] >= 3 for row in table.to_pylist() if row["error"] is None)


def test_the_report_counts_input_rows_rows_dropped_ones_and_copies(run):
    job, report = run
    written, dropped = (ds.dataset(url).count_rows() for url in (job.ledger.data_url, job.ledger.dropped_url))
    assert (report["rows_in"], report["rows"], report["dropped"]) == (NUM_ROWS, written, dropped)
    assert dropped > 0
    # rows 12..23 repeat 0..11, but for the two bad ones; greedy samples repeat the first
    greedy_copies = 2 * sum(n % 3 for n in range(0, 12, 3))
    repeated = sum(1 + n % 3 if n % 3 else 1 for n in range(12) if n not in (5, 7))
    assert report["deduplicated"] == greedy_copies + repeated
    assert report["errors"] == 2


@pytest.mark.slow
def test_only_failed_completes_a_run_whose_engine_was_poisoned(local_ray, tree, model_dir):
    token = load_tokenizer(str(model_dir)).encode("3", add_special_tokens=False)[0]
    job, report = run_tree(tree, partial(poisoned_engine, token))
    assert 0 < report["errors"] < 17
    again = job_of(tree, only_failed=True)
    progress = Progress(total_rows=17, done_rows=0, every_s=60)
    repaired = run_job(again, progress, partial(poisoned_engine, -1))
    assert (repaired["status"], repaired["errors"], repaired["rows"]) == ("done", 0, 17)
    assert repaired["this_run"]["rows"] == report["errors"]
    other = tree | {"output": tree["output"] | {"path": tree["output"]["path"] + "-plain"}}
    plain, _ = run_tree(other, partial(poisoned_engine, -1))
    assert ds.dataset(job.ledger.data_url).to_table() == ds.dataset(plain.ledger.data_url).to_table()
    assert json.loads(json.dumps(job.ledger.manifest()))["repaired"][0]["units"] == len(again.units)


def poisoned_engine(token: int, spec) -> FakeEngine:
    return FakeEngine(poison=token)


@pytest.mark.slow
def test_a_run_with_turns_writes_every_answer_and_makes_lost_units_again(local_ray, model_dir, tmp_path):
    (tmp_path / "prompts").mkdir()
    columns = {"q": ["Add 1 and 1.", None, "Add 2 and 1."], "more": [["Why?", "So?"], ["Why?"], None]}
    pq.write_table(pa.table(columns), tmp_path / "prompts/a.parquet")
    tree = generate_tree(model_dir, tmp_path / "prompts", tmp_path / "out", unit_rows=2)
    tree["input"] |= {"prompt": {"column": "q", "turns": "more"}, "id_column": None}
    tree["sampling"] = {"max_new_tokens": 8}
    job, report = run_tree(tree)
    whole = ds.dataset(job.ledger.data_url).to_table()
    first, empty, last = whole.to_pylist()
    assert [len(row["completions"]) for row in (first, empty, last)] == [3, 0, 1]
    assert first["completion"] == first["completions"][2]["text"]
    assert last["completion"] == last["completions"][0]["text"]
    assert (empty["error"], empty["more"]) == ("prompt column q is null", ["Why?"])
    assert report["cached_tokens"] == first["cached_tokens"] > 0
    assert (report["rows"], report["audit"]["compared"]) == (3, 4)
    for lost in ("data/part-00000-00000.parquet", "_run/_SUCCESS"):
        (tmp_path / "out" / lost).unlink()
    again, _ = run_tree(tree)
    assert len(again.units) == 1
    told = ["id", "more", "completion", "completions", "error", "token_ids"]
    assert ds.dataset(job.ledger.data_url).to_table(told) == whole.select(told)


@pytest.mark.slow
@pytest.mark.parametrize("pack", [False, True])
def test_small_files_give_the_same_rows_whether_packed_or_not(local_ray, model_dir, tmp_path, pack):
    for number, begun in enumerate(("The", "It", "So")):
        folder = tmp_path / "prompts" / f"begun={begun}"
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"q": [f"Add {number} and 1."]}), folder / "a.parquet")
    tree = generate_tree(model_dir, tmp_path / "prompts", tmp_path / "out", unit_rows=8)
    tree["input"] |= {
        "prompt": {"column": "q", "prefill": "{{ begun }}"},
        "pack_files": pack,
        "id_column": None,
    }
    tree["output"]["prefill"] = True
    tree["sampling"] = {"max_new_tokens": 6}
    job, _ = run_tree(tree)
    assert len(job.plan.units) == (1 if pack else 3)
    rows = ds.dataset(f"{tree['output']['path']}/data").to_table().to_pylist()
    assert [row["id"] for row in rows] == ["0:0", "1:0", "2:0"]  # by path: It, So, The
    assert [row["begun"] for row in rows] == ["It", "So", "The"]
    assert all(row["completion"].startswith(row["begun"]) for row in rows)
    assert [row["error"] for row in rows] == [None] * 3
