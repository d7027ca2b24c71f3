"""Whole runs on a local Ray; most tests look at one and the same finished run."""

import json
import logging
import os
import shutil
import socket
from pathlib import Path

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from orthrus_core.errors import ConfigError, OrthrusError
from orthrus_core.models.loading import load_model
from orthrus_core.readiness.device_memory import DeviceMemory
from orthrus_core.readiness.engine import Engine
from pipelines.checkpoint.directory import load_tokenizer
from pipelines.cluster.config import RunConfig
from pipelines.cluster.lock import RunLock
from pipelines.cluster.ray_data import set_options
from pipelines.generate.build import default_calls_in_flight
from pipelines.generate.config.job import GenerateConfig
from pipelines.generate.decode.spec import decode_options, sized_options
from pipelines.generate.report.card import data_card
from pipelines.generate.report.terminal import render_report
from pipelines.storage.files import join, list_directory
from tests.fakes import broken_engine, disagreeing_engine, refused_engine
from tests.pipelines.conftest import job_of, run_tree

pytestmark = pytest.mark.ray


def rows_of(job) -> list[dict]:
    return ds.dataset(job.ledger.data_url).to_table().to_pylist()


def test_every_row_comes_out_once_in_order_with_its_columns(finished):
    rows = rows_of(finished[0])
    assert [row["id"] for row in rows] == [f"row-{n}" for n in range(220)] + ["null", "long", "fine"]
    assert [row["prompt"] for row in rows[:220]] == [f"Add {n} and {2 * n}." for n in range(220)]


def test_text_is_what_plain_ar_decoding_writes(finished, model_dir):
    job, report = finished
    tokenizer = load_tokenizer(str(model_dir))
    rows = [row for row in rows_of(job) if row["error"] is None][:40]
    messages = [[{"role": "user", "content": row["prompt"]}] for row in rows]
    prompts = [
        tokenizer.apply_chat_template(m, add_generation_prompt=True, return_dict=False) for m in messages
    ]
    plain = job.config.decode.model_copy(update={"mode": "autoregressive"})
    completions = Engine(load_model(model_dir), plain).generate(prompts, job.config.sampling.params)
    assert [row["token_ids"] for row in rows] == [completion.token_ids for completion in completions]
    assert [row["completion"] for row in rows] == [
        tokenizer.decode(completion.token_ids, skip_special_tokens=True) for completion in completions
    ]
    assert report["exactness"] == "exact"
    assert report["acceptance_length"] > 1.2


def test_bad_rows_become_error_rows_in_their_place(finished):
    job, report = finished
    null, long, good = rows_of(job)[-3:]
    assert (null["error"], null["completion"]) == ("prompt column prompt is null", None)
    assert long["error"].endswith("decode.max_context is 256")
    assert good["error"] is None
    assert (report["rows"], report["errors"], report["finish_reasons"]["error"]) == (223, 2, 2)


def test_files_are_one_for_each_unit_and_complete_the_ledger(finished):
    job, report = finished
    assert sorted(list_directory(job.ledger.data_url)) == [unit.file_name for unit in job.plan.units]
    assert set(list_directory(job.ledger.run_url)) == {
        "_SUCCESS",
        "manifest.json",
        "plan.json",
        "report.html",
        "report.json",
    }
    assert Path(job.ledger.url, "README.md").read_text() == data_card(job, report)


def test_the_drivers_log_is_kept_with_the_output(finished):
    logs = join(finished[0].ledger.run_url, "logs")
    [name] = list_directory(logs)
    assert f"driver host={socket.gethostname()}" in Path(logs, name).read_text()


def test_every_file_has_the_same_schema(finished):
    job, _ = finished
    [schema] = {pq.read_schema(job.ledger.unit_url(unit)).remove_metadata() for unit in job.plan.units}
    assert schema.names == job.layout.output.names


def test_the_manifest_learns_of_the_engine(finished):
    engine = finished[0].ledger.manifest()["engine"]
    assert (engine["exactness"], engine["token_budget"], engine["device"]) == ("exact", 64, "cpu")


def test_the_report_counts_tokens_and_time(finished):
    job, report = finished
    rows = rows_of(job)
    run = report["this_run"]
    assert report["completion_tokens"] == sum(row["completion_tokens"] for row in rows)
    steps = sum(row["steps"] for row in rows)
    step_tokens = sum(row["acceptance_length"] * row["steps"] for row in rows if row["steps"])
    assert report["acceptance_length"] == pytest.approx(step_tokens / steps, rel=1e-5)
    assert 0 < run["outside_engine_share"] < 1
    assert run["engine_s"] < run["wall_s"]
    assert json.loads(Path(job.ledger.run_url, "report.json").read_text()) == report


def test_the_end_of_a_run_shows_figures_samples_and_how_to_open_it(finished):
    console = Console(width=200)
    with console.capture() as screen:
        console.print(render_report(*finished))
    text = screen.get()
    for words in ("acceptance length", "tokens per forward", "row row-0", "Add 1 and 2.", "load_dataset("):
        assert words in text


@pytest.fixture
def again(finished, tmp_path):
    """A copy of the finished run's output and the config that made it."""
    job, _ = finished
    output = shutil.copytree(job.ledger.url, tmp_path / "copy")
    tree = job.config.model_dump()
    tree["output"]["path"] = str(output)
    return tree


def test_running_again_does_nothing_and_says_the_same(finished, again):
    job, report = run_tree(again)
    assert job.units == ()
    assert report == finished[1]


def test_a_run_killed_before_its_report_gets_it_from_the_files(finished, again):
    os.unlink(f"{again['output']['path']}/_run/_SUCCESS")
    _, report = run_tree(again)
    assert report["this_run"]["rows"] == 0
    assert report["completion_tokens"] == finished[1]["completion_tokens"]


@pytest.mark.slow
def test_a_lost_unit_is_made_again_the_same(finished, again):
    unit = finished[0].plan.units[2]
    os.unlink(f"{again['output']['path']}/data/{unit.file_name}")
    job, report = run_tree(again)
    assert job.units == (unit,)
    assert report["this_run"]["rows"] == unit.num_rows
    text = [[(row["id"], row["completion"]) for row in rows_of(one)] for one in (job, finished[0])]
    assert text[0] == text[1]


def test_other_options_on_the_same_output_are_refused(again):
    again["sampling"]["max_new_tokens"] = 25
    with pytest.raises(ConfigError, match="sampling.max_new_tokens was 24, is 25"):
        run_tree(again)


def test_a_second_driver_on_the_same_output_is_refused_and_changes_nothing(tree):
    with RunLock(join(tree["output"]["path"], "_run"), beat_s=0.1):
        before = _files_but_heartbeats(tree)
        with pytest.raises(ConfigError, match="another run is at work there: process"):
            run_tree(tree)
        assert _files_but_heartbeats(tree) == before


def _files_but_heartbeats(tree) -> list[Path]:
    """What lies in the output, without what a heartbeat of the lock is writing at this moment."""
    files = Path(tree["output"]["path"]).rglob("*")
    return sorted(file for file in files if not file.name.startswith(".lock"))


def test_another_device_on_the_same_output_is_refused(local_ray, again):
    path = Path(again["output"]["path"])
    manifest = json.loads((path / "_run/manifest.json").read_text())
    manifest["engine"]["device"] = "cuda:0"
    (path / "_run/manifest.json").write_text(json.dumps(manifest))
    (path / "data/part-00000-00000.parquet").unlink()
    with pytest.raises(ConfigError, match="begun on cuda:0, this machine would go on on cpu"):
        run_tree(again)


def test_a_new_run_chooses_its_budgets_and_expects_half_of_the_tokens(tree):
    config = GenerateConfig.model_validate(tree)
    options = decode_options(config, {}, num_rows=1000)
    assert (options.token_budget, options.budgets) == (config.decode.token_budget, config.decode.budgets)
    assert options.expected_tokens == 1000 * config.sampling.max_new_tokens // 2 // config.run.actors


STORED = {"token_budget": 48, "budgets": [16, 48], "compiled": True, "linear": "native"}


def test_a_resumed_run_takes_budgets_and_kernels_of_its_manifest(tree):
    options = decode_options(GenerateConfig.model_validate(tree), STORED, num_rows=10)
    assert (options.token_budget, options.budgets, options.compile) == (48, (16, 48), "on")
    assert options.linear == "native"


def test_a_run_from_before_there_was_a_choice_of_linear_layers_goes_on_with_those_of_torch(tree):
    stored = {name: value for name, value in STORED.items() if name != "linear"}
    assert decode_options(GenerateConfig.model_validate(tree), stored, num_rows=10).linear == "plain"


def test_a_resumed_run_goes_on_with_as_many_sequences_as_it_had(tree):
    tree["decode"] = {"max_sequences": "auto", "max_context": 256}
    options = decode_options(GenerateConfig.model_validate(tree), STORED | {"max_sequences": 7}, num_rows=10)
    assert options.max_sequences == 7


def test_all_actors_get_the_drivers_sizes_and_their_part_of_the_memory(tree):
    tree["decode"] = {"max_context": 256}
    tree["run"] |= {"actors": 2, "cpus_per_actor": os.cpu_count() / 2}
    job = job_of(tree)
    options = sized_options(job, job.config.decode, "cpu", DeviceMemory(10**9, 10**9))
    assert (options.max_sequences, options.num_pages) == (17, None)
    assert options.memory == 0.45


def test_sequences_of_a_device_that_the_driver_does_not_see_are_those_that_it_is_good_for(tree):
    tree["decode"] = {"max_context": 256}
    tree["sampling"]["n"] = 100
    job = job_of(tree)
    assert sized_options(job, job.config.decode, "cuda", None).max_sequences == 256


def test_a_resumed_run_cannot_have_more_sequences_than_its_budget(tree):
    tree["decode"] = {**tree.get("decode", {}), "token_budget": None, "max_sequences": 49}
    with pytest.raises(ConfigError, match="decode.max_sequences must be <= 48, the token budget that output"):
        decode_options(GenerateConfig.model_validate(tree), STORED, num_rows=10)


def test_a_refused_checkpoint_is_a_config_error_of_one_line(local_ray, tree):
    with pytest.raises(ConfigError) as caught:
        run_tree(tree, refused_engine)
    assert str(caught.value) == "model.layers.0.self_attn.q_proj_diff.weight is missing"
    report = json.loads(Path(tree["output"]["path"], "_run/report.json").read_text())
    assert (report["status"], report["exit_code"], report["reason"]) == ("failed", 2, str(caught.value))
    assert (report["rows"], report["rows_planned"], report["covers"]) == (0, 17, "all sessions")


def test_a_gpu_that_is_not_there_is_a_config_error(local_ray, tree):
    tree["model"]["device"] = "cuda"
    tree["run"]["actors"] = 1000
    with pytest.raises(ConfigError, match="run.actors=1000 on cuda need 1000 GPUs, Ray sees "):
        run_tree(tree)


@pytest.mark.slow
def test_an_engine_that_breaks_again_and_again_ends_the_run_with_its_reason(local_ray, tree):
    tree["run"]["retries"] = 0
    with pytest.raises(OrthrusError, match="RuntimeError: device-side assert triggered") as caught:
        run_tree(tree, broken_engine)
    assert not isinstance(caught.value, ConfigError)
    assert "\n" not in str(caught.value)


def test_enough_units_are_in_flight_to_fill_the_engine():
    calls = [default_calls_in_flight(rows, sequences) for rows, sequences in ((256, 8), (256, 256), (1, 8))]
    assert calls == [3, 4, 18]


@pytest.mark.parametrize("calls", [1, 2, 10])
def test_a_pool_grows_at_a_load_that_its_calls_can_reach(calls):
    from ray.data import DataContext

    context = DataContext.get_current().copy()
    set_options(context, RunConfig(actors=1, max_actors=4))
    reachable = (calls + 1) / calls  # an actor is sent one call more than it works on
    assert context.autoscaling_config.actor_pool_util_upscaling_threshold <= reachable


def test_ray_data_says_nothing_on_the_console(finished, capfd):
    logging.getLogger("ray.data").info("noise")
    assert "noise" not in capfd.readouterr().err


@pytest.mark.slow
def test_a_mismatch_fails_the_run_loudly_and_keeps_its_rows(local_ray, tree, caplog):
    with caplog.at_level(logging.ERROR):
        job, report = run_tree(tree, disagreeing_engine)
    assert (report["status"], report["exit_code"]) == ("mismatch", 1)
    assert "8 of 8 rows differ from plain AR decoding" in caplog.text
    assert len(rows_of(job)) == 17
    assert "_SUCCESS" not in list_directory(job.ledger.run_url)
    named = report["audit"]["mismatches"]
    by_id = {row["id"]: row["token_ids"] for row in rows_of(job)}
    assert len(named) == 8
    for row in named:
        written = by_id[row["id"]]
        assert (row["first_token"], row["written"]) == (len(written) - 1, written[-1])
        assert row["plain_ar"] == written[-1] + 1
    assert "**mismatch**" in Path(job.ledger.url, "README.md").read_text()
    again, stored = run_tree(tree, disagreeing_engine)
    assert (again.units, stored["status"]) == ((), "mismatch")
    tree["audit"] = {"enabled": False}
    accepted, stored = run_tree(tree, disagreeing_engine)
    assert (stored["status"], stored["audit"]["compared"], stored["audit"]["identical"]) == ("done", 8, 0)
    assert "_SUCCESS" in list_directory(accepted.ledger.run_url)


@pytest.mark.slow
def test_the_report_of_a_resumed_run_covers_all_sessions(finished, again):
    job, whole = finished
    os.unlink(f"{again['output']['path']}/data/{job.plan.units[2].file_name}")
    _, report = run_tree(again)
    assert len(report["speed_over_time"]["sessions"]) == 2
    for name in ("rows", "completion_tokens"):  # steps depend on what the engine learnt
        assert [bucket[name] for bucket in report["by_length"]] == [one[name] for one in whole["by_length"]]
    assert report["error_kinds"].keys() == whole["error_kinds"].keys()
    assert report["drafted_by_position"][0] > report["this_run"]["rows"]


def test_rows_are_audited_and_the_page_is_written(finished):
    job, report = finished
    audit = report["audit"]
    count = audit["selected"]  # by fingerprint; an error row may be among them
    assert 6 <= count == audit["compared"] == audit["identical"]
    assert audit["speed_ratio"]["pairs"] >= 1
    page = Path(job.ledger.run_url, "report.html").read_text()
    assert f"{count} of {count}" in page
    assert "prompt column prompt is null" in page


@pytest.mark.slow
def test_storage_that_fails_under_the_driver_is_a_failure_of_one_line(tree, monkeypatch):
    def full(self, plan, manifest):
        raise OSError(28, "No space left on device", "/out/_run/plan.json")

    monkeypatch.setattr("pipelines.generate.ledger.ledger.Ledger.start", full)
    with pytest.raises(
        OrthrusError, match="No space left on device: '/out/_run/plan.json'; finished units are"
    ):
        run_tree(tree)
    assert json.loads(Path(tree["output"]["path"], "_run/report.json").read_text())["status"] == "failed"


@pytest.mark.slow
def test_a_report_that_cannot_be_written_does_not_hide_why_the_run_failed(
    local_ray, tree, monkeypatch, caplog
):
    def refused(self, report):
        raise PermissionError("403")

    monkeypatch.setattr("pipelines.generate.ledger.ledger.Ledger.write_report", refused)
    with pytest.raises(ConfigError, match="q_proj_diff.weight is missing"):
        run_tree(tree, refused_engine)
    assert "no report of the failure: PermissionError: 403" in caplog.text


@pytest.mark.slow
def test_a_plan_made_again_keeps_what_the_manifest_knows_of_the_engine(finished, again):
    path = Path(again["output"]["path"])
    (path / "_run/plan.json").write_bytes(b"{")
    unit = finished[0].plan.units[2]
    (path / "data" / unit.file_name).unlink()
    job, _ = run_tree(again)
    assert job.units == (unit,)
    assert job.plan == finished[0].plan
    assert job.ledger.manifest()["engine"] == finished[0].ledger.manifest()["engine"]
    assert len(job.ledger.manifest()["resumed"]) == 1


@pytest.mark.slow
def test_a_unit_file_truncated_after_success_fails_the_next_run_and_is_made_again_by_the_one_after(
    finished, again
):
    path = Path(again["output"]["path"])
    unit = finished[0].plan.units[3]
    os.truncate(path / "data" / unit.file_name, 100)
    with pytest.raises(OrthrusError, match=r"1 damaged unit file\(s\) removed"):
        run_tree(again)
    assert not (path / "_run/_SUCCESS").exists()
    job, _ = run_tree(again)
    assert job.units == (unit,)
    texts = [[(row["id"], row["completion"]) for row in rows_of(one)] for one in (job, finished[0])]
    assert texts[0] == texts[1]
