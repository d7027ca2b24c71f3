"""Error rows made again, and the rows that stay; the stages one after the other, without Ray."""

import asyncio
import os
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orthrus_core.errors import ConfigError, OrthrusError
from pipelines.checkpoint.directory import load_tokenizer
from pipelines.cluster.failures import FailureNotes
from pipelines.generate.build import run_job
from pipelines.generate.config.job import GenerateConfig
from pipelines.generate.decode.actor import GenerateActor
from pipelines.generate.decode.spec import ActorSpec
from pipelines.generate.job.job import Job, prepare
from pipelines.generate.ledger.accounts import settle
from pipelines.generate.prompt.unit import render_unit
from pipelines.generate.watch.progress import Progress
from pipelines.generate.write.sink import RowPolicy, commit_unit
from pipelines.read.source import column_types, read_unit
from tests.fakes import FakeEngine, fake_engine


def run(job: Job, engine_factory=fake_engine, units=None) -> None:
    """All stages of a job in this process."""
    config, ledger = job.config, job.ledger
    spec = ActorSpec(
        checkpoint=job.checkpoint,
        dtype="float32",
        device="cpu",
        threads=1,
        decode=config.decode,
        sampling=config.sampling,
        layout=job.layout,
        failures=FailureNotes(f"{ledger.run_url}/failures", ledger.data_url),
        retries=1,
    )
    stored = ledger.manifest()
    manifest = job.manifest() if stored is None or job.repair is None else job.repaired_manifest(stored)
    ledger.start(job.plan, manifest)
    actor = GenerateActor(spec, engine_factory)
    policy = RowPolicy(ledger.dropped_url, config.output.filters, job.repair)
    for unit in job.units if units is None else units:
        table = read_unit(job.plan.shards_of(unit), unit, column_types(job.plan, job.layout))
        table = render_unit(table, config, job.checkpoint.path, job.layout, job.repair)
        table = asyncio.run(actor(table))
        commit_unit(table, ledger.data_url, job.layout, job.fingerprint, policy=policy)


def poisoned(token: int):
    return partial(_poisoned, token)


def _poisoned(token, spec):
    return FakeEngine(poison=token)


@pytest.fixture
def token(model_dir) -> int:
    """A token that rows 3 and 13 alone have."""
    return load_tokenizer(str(model_dir)).encode("3", add_special_tokens=False)[0]


def job_of(tree, only_failed=False, **sections):
    changed = {name: tree[name] | values for name, values in sections.items()}
    return prepare(GenerateConfig.model_validate(tree | changed), only_failed=only_failed)


def all_rows(job, directory="data") -> pa.Table:
    files = sorted(Path(job.ledger.url, directory).glob("*.parquet"))
    return pa.concat_tables([pq.read_table(file) for file in files]).replace_schema_metadata()


def undisturbed(tree, tmp_path) -> tuple[Job, pa.Table]:
    job = job_of(tree, output={"path": str(tmp_path / "undisturbed")})
    run(job)
    return job, all_rows(job)


def counts_of(job) -> dict[str, int]:
    return settle(job.ledger, job.plan.units, job.fingerprint).counts


SAMPLED = {"temperature": 1.0, "n": 3}


def test_a_repaired_run_is_the_run_that_nothing_happened_to(tree, token, tmp_path):
    tree["sampling"] |= SAMPLED
    job = job_of(tree)
    run(job, poisoned(token))
    before = all_rows(job)
    failed = before.num_rows - before.column("error").null_count
    assert 0 < failed < before.num_rows
    again = job_of(tree, only_failed=True)
    assert 0 < len(again.units) < len(job.units)
    untouched = {file.name: file.stat().st_mtime_ns for file in Path(job.ledger.data_url).iterdir()}
    for unit in again.units:
        del untouched[unit.file_name]
    run(again)
    plain_job, plain = undisturbed(tree, tmp_path)
    assert all_rows(job) == plain
    assert counts_of(job) == counts_of(plain_job)
    assert {n: Path(job.ledger.data_url, n).stat().st_mtime_ns for n in untouched} == untouched
    assert job_of(tree, only_failed=True).units == ()


def test_only_failed_samples_go_to_the_engine_again(tree, token):
    engines = []

    def factory(spec):
        engines.append(FakeEngine())
        return engines[-1]

    job = job_of(tree)
    run(job, poisoned(token))
    counts = counts_of(job)
    run(job_of(tree, only_failed=True), factory)
    assert engines[0].submitted == counts["errors"] > 0


def test_rows_that_were_fine_keep_every_value(tree, token):
    job = job_of(tree)
    run(job, poisoned(token))
    before = all_rows(job)
    fine = pa.array([error is None for error in before.column("error").to_pylist()])
    run(job_of(tree, only_failed=True), lambda spec: FakeEngine(exactness="unverified"))
    after = all_rows(job)
    assert after.filter(fine) == before.filter(fine)
    assert set(after.filter(pa.array([not f.as_py() for f in fine])).column("exactness").to_pylist()) == {
        "unverified"
    }


def test_dropped_rows_keep_their_place_through_a_repair(tree, token, tmp_path):
    tree["sampling"] |= SAMPLED
    tree["output"] |= {"filters": {"min_tokens": 9, "drop_errors": True}}
    job = job_of(tree)
    run(job, poisoned(token))
    counts = counts_of(job)
    assert counts.get("dropped_error", 0) > 0
    assert counts.get("dropped_min_tokens", 0) > 0
    run(job_of(tree, only_failed=True))
    plain_job, plain = undisturbed(tree, tmp_path)
    assert all_rows(job) == plain
    assert all_rows(job, "dropped") == all_rows(plain_job, "dropped")
    assert counts_of(job) == counts_of(plain_job)


@pytest.fixture
def named_alike(tree, tmp_path):
    """A run whose input has columns with names of output columns, and whose files have no diagnostics."""
    columns = {
        "id": [f"r{n}" for n in range(17)],
        "prompt": [f"Add {n} and {2 * n}." for n in range(17)],
        "error": [n % 2 for n in range(17)],
        "steps": [n % 3 for n in range(17)],
    }
    (tmp_path / "alike").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "alike/a.parquet")
    tree["input"]["paths"] = [str(tmp_path / "alike")]
    tree["output"] |= {"rename": {"error": "why"}, "diagnostics": False, "filters": {"min_tokens": 9}}
    return tree


def test_a_repair_keeps_carried_columns_and_counts_where_names_are_other_ones(named_alike, token, tmp_path):
    job = job_of(named_alike)
    run(job, poisoned(token))
    before = all_rows(job)
    assert before.column("why").null_count < before.num_rows
    assert before.column("error").to_pylist() == [int(one[1:]) % 2 for one in before.column("id").to_pylist()]
    run(job_of(named_alike, only_failed=True))
    plain_job, plain = undisturbed(named_alike, tmp_path)
    assert all_rows(job) == plain
    assert all_rows(job, "dropped") == all_rows(plain_job, "dropped")
    counts, sums = counts_of(job), settle(job.ledger, job.plan.units, job.fingerprint)
    assert counts == counts_of(plain_job)
    assert counts["steps"] > 0
    assert sums.lengths == settle(plain_job.ledger, plain_job.plan.units, plain_job.fingerprint).lengths


def test_counts_add_up_with_samples_and_filters(tree, token):
    tree["sampling"] |= SAMPLED
    tree["output"] |= {"filters": {"min_tokens": 9}}
    job = job_of(tree)
    run(job, poisoned(token))
    counts = counts_of(job)
    assert counts["rows_in"] == 17
    assert counts["rows"] + counts["dropped"] == 3 * 17
    assert counts["rows"] == all_rows(job).num_rows
    assert counts["dropped"] == all_rows(job, "dropped").num_rows


def test_a_repair_that_was_killed_between_side_file_and_commit_is_made_whole_by_the_next(
    tree, token, tmp_path
):
    tree["output"] |= {"filters": {"min_tokens": 9, "drop_errors": True}}
    job = job_of(tree)
    run(job, poisoned(token))
    again = job_of(tree, only_failed=True)
    files = [Path(job.ledger.data_url, unit.file_name) for unit in again.units]
    old = [file.read_bytes() for file in files]
    run(again)
    for file, content in zip(files, old, strict=True):
        file.write_bytes(content)
    with pytest.raises(OrthrusError, match="dropped rows"):
        settle(job.ledger, job.plan.units, job.fingerprint)
    run(job_of(tree, only_failed=True))
    assert all_rows(job) == undisturbed(tree, tmp_path)[1]
    settle(job.ledger, job.plan.units, job.fingerprint)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: os.truncate(path, 20)])
def test_a_unit_whose_side_file_is_gone_or_truncated_is_made_again(tree, damage):
    tree["output"] |= {"filters": {"min_tokens": 1000}}
    job = job_of(tree)
    run(job)
    unit = job.plan.units[1]
    damage(Path(job.ledger.dropped_url, unit.file_name))
    with pytest.raises(OrthrusError, match=rf"1 damaged unit .*dropped/{unit.file_name} .*makes them again"):
        settle(job.ledger, job.plan.units, job.fingerprint)
    again = job_of(tree)
    assert again.units == (unit,)
    run(again)
    settle(job.ledger, job.plan.units, job.fingerprint)


def test_a_repair_of_a_run_with_a_truncated_file_names_it(tree):
    job = job_of(tree)
    run(job)
    path = Path(job.ledger.data_url, job.plan.units[1].file_name)
    os.truncate(path, 20)
    with pytest.raises(OrthrusError, match=f"{path} is no whole Parquet file"):
        job_of(tree, only_failed=True)


def test_a_side_file_that_no_footer_asks_for_is_removed(tree):
    job = job_of(tree)
    run(job)
    stray = Path(job.ledger.dropped_url, job.plan.units[0].file_name)
    stray.parent.mkdir()
    stray.write_bytes(b"of an attempt that was not committed")
    settle(job.ledger, job.plan.units, job.fingerprint)
    assert not stray.exists()


def test_a_larger_context_repairs_prompts_that_were_too_long(tree):
    tree["decode"] |= {"max_context": 16}
    tree["sampling"] |= {"max_new_tokens": 4}
    job = job_of(tree)
    run(job)
    assert any("decode.max_context is 16" in (e or "") for e in all_rows(job).column("error").to_pylist())
    again = job_of(tree, only_failed=True, decode={"max_context": 64})
    run(again)
    assert all_rows(job).column("error").null_count == 17
    manifest = job.ledger.manifest()
    assert manifest["repaired"][0]["changed"] == ["decode.max_context was 16, is 64"]
    assert manifest["identity"]["decode.max_context"] == 64
    assert job_of(tree, decode={"max_context": 64}).units == ()
    with pytest.raises(ConfigError, match="decode.max_context was 64, is 16"):
        job_of(tree)


def test_truncation_repairs_prompts_that_were_too_long_and_says_so(tree):
    tree["decode"] |= {"max_context": 16}
    tree["sampling"] |= {"max_new_tokens": 1}
    job = job_of(tree)
    run(job)
    prompt = tree["input"]["prompt"] | {"overlong": "truncate_left"}
    run(job_of(tree, only_failed=True, input={"prompt": prompt}))
    rows = all_rows(job)
    assert rows.column("error").null_count == 17
    assert max(rows.column("truncated_tokens").to_pylist()) > 0


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"sampling": {"max_new_tokens": 25}}, "belongs to another run: sampling.max_new_tokens"),
        ({"output": {"filters": {"min_tokens": 1}}}, "output.filters.min_tokens was null, is 1"),
        ({"decode": {"max_context": 128}}, "--only-failed: decode.max_context must be >= 256"),
    ],
)
def test_options_that_would_change_other_rows_are_refused(tree, sections, reason):
    run(job_of(tree))
    with pytest.raises(ConfigError, match=reason):
        job_of(tree, only_failed=True, **sections)


def test_there_must_be_a_run_to_repair(tree):
    with pytest.raises(ConfigError, match="--only-failed: output.path .* holds no run yet"):
        job_of(tree, only_failed=True)


def test_units_that_are_not_finished_are_left_alone(tree, token):
    job = job_of(tree)
    run(job, poisoned(token), units=job.units[:3])
    again = job_of(tree, only_failed=True)
    assert set(again.units) <= set(job.units[:3])
    assert again.left == job.units[3:]


def test_a_repair_of_a_run_that_lacks_units_does_not_complete_it(tree):
    job = job_of(tree)
    run(job)
    job.ledger.finish({"status": "done"}, "# card")
    Path(job.ledger.unit_url(job.units[0])).unlink()
    again = job_of(tree, only_failed=True)
    report = run_job(again, Progress(total_rows=17, done_rows=0, every_s=60))
    assert (report["status"], report["exit_code"], report["rows"]) == ("interrupted", 3, 13)
    assert report["reason"].startswith("1 unit left to generate; the same command")
    assert job.ledger.finished_report() is None
