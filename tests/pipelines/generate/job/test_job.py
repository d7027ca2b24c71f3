"""Everything that is checked before an actor starts."""

import json
import shutil
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from rich.console import Console

from orthrus_core.errors import ConfigError
from orthrus_core.readiness.device_memory import DeviceMemory
from pipelines.generate.job import sizes
from pipelines.generate.job.preview import preview
from pipelines.generate.ledger.ledger import fingerprint
from pipelines.generate.report.terminal import render_plan
from pipelines.storage.files import list_directory
from tests.pipelines.conftest import job_of

NEW_OPTIONS = ("model.weights", "model.quantise_output_head")


def refusal(tree) -> str:
    with pytest.raises(ConfigError) as caught:
        job_of(tree)
    return str(caught.value)


def test_a_job_knows_its_units_and_columns(tree):
    job = job_of(tree)
    assert job.is_new
    assert [(unit.shard, unit.index, unit.num_rows) for unit in job.units] == [
        (0, 0, 4),
        (0, 1, 3),
        (2, 0, 4),
        (2, 1, 3),
        (2, 2, 3),
    ]
    assert job.layout.carried.names == ["prompt"]


def test_preparing_writes_nothing(tree):
    job = job_of(tree)
    assert list_directory(job.ledger.run_url) == {}


def test_what_the_rows_depend_on_is_in_the_fingerprint(tree):
    before = job_of(tree).fingerprint
    for section, key, value in (
        ("sampling", "max_new_tokens", 25),
        ("decode", "token_budget", 32),
        ("decode", "mode", "autoregressive"),
        ("output", "prompt_token_ids", True),
        ("run", "unit_rows", 5),
        ("model", "dtype", "bfloat16"),
        ("model", "weights", "int8"),
    ):
        changed = tree | {section: tree[section] | {key: value}}
        assert job_of(changed).fingerprint != before, key


def test_a_run_of_other_weights_is_refused_and_one_of_before_there_was_a_choice_goes_on(tree):
    begun = job_of(tree)
    manifest = begun.manifest()
    before = {name: value for name, value in begun.identity.items() if name not in NEW_OPTIONS}
    begun.ledger.write_manifest(manifest | {"identity": before, "fingerprint": fingerprint(before)})
    assert job_of(tree).identity == before
    tree["model"]["weights"] = "int8"
    assert 'belongs to another run: model.weights was null, is "int8"' in refusal(tree)


def test_weights_of_bytes_are_planned_as_bytes(tree):
    whole = preview(job_of(tree)).sizes.plan
    tree["model"]["weights"] = "fp8"
    found = preview(job_of(tree))
    in_bytes = found.sizes.plan
    with (console := Console(width=300)).capture() as shown:
        console.print(render_plan(job_of(tree), found))
    assert "), weights in fp8" in shown.get()
    # of a layer: q 48x64, k 48x32, v 48x32, o 64x48, in either view; an MLP of 3 x 48x96; float32 before
    projections, mlp = 2 * 48 * 64 + 2 * 48 * 32, 3 * 48 * 96
    scales = 64 + 32 + 32 + 48
    assert whole.head - in_bytes.head == 2 * (3 * projections - 4 * scales)
    assert whole.weights - in_bytes.weights == 2 * (3 * (projections + mlp) - 4 * (scales + 96 + 96 + 48))


def test_a_mixture_of_experts_in_bytes_is_refused_at_once(tree, tmp_path):
    (tmp_path / "moe").mkdir()
    (tmp_path / "moe/config.json").write_text(json.dumps({"model_type": "qwen3_moe", "num_hidden_layers": 1}))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(f"{tree['model']['path']}/{name}", tmp_path / "moe")
    tree["model"] |= {"path": str(tmp_path / "moe"), "weights": "int8"}
    assert refusal(tree).startswith("model.weights: int8 is for dense models")


def test_an_output_head_alone_is_not_quantised(tree):
    tree["model"]["quantise_output_head"] = True
    with pytest.raises(ValidationError, match="quantise_output_head needs weights int8 or fp8, got auto"):
        job_of(tree)


def test_where_and_how_fast_it_runs_is_not_in_the_fingerprint(tree):
    before = job_of(tree).fingerprint
    for section, key, value in (
        ("run", "actors", 2),
        ("decode", "max_sequences", 2),
        ("output", "path", "elsewhere"),
    ):
        changed = tree | {section: tree[section] | {key: value}}
        assert job_of(changed).fingerprint == before, key


def test_lengths_that_are_left_open_are_the_models(tree):
    del tree["decode"]["max_context"], tree["sampling"]["max_new_tokens"]
    job = job_of(tree)
    assert (job.config.decode.max_context, job.config.sampling.max_new_tokens) == (1024, 512)
    assert (job.identity["decode.max_context"], job.identity["sampling.max_new_tokens"]) == (1024, 512)


def test_a_run_that_was_begun_keeps_the_lengths_it_had(tree):
    begun = job_of(tree)
    begun.ledger.write_manifest(begun.manifest())
    tree["decode"]["max_context"] = tree["sampling"]["max_new_tokens"] = "auto"
    assert job_of(tree).fingerprint == begun.fingerprint


def test_a_dry_run_shows_what_the_engine_will_hold(tree):
    del tree["decode"]["max_sequences"]
    found = preview(job_of(tree)).sizes
    assert found.decode.max_sequences == 17  # rows, fewer than the 32 that a CPU is good for
    assert found.plan.cache == (17 * 256 // 16 + 1) * found.page_bytes
    assert found.plan.total <= found.left


def test_a_model_that_does_not_fit_is_refused_in_a_dry_run_with_numbers(tree, monkeypatch):
    monkeypatch.setattr(sizes, "device_memory", lambda device: DeviceMemory(10**6, 10**6))
    with pytest.raises(ConfigError, match=r"does not fit: beside 0\.5 MB of weights 0\.4 MB are left"):
        preview(job_of(tree))


def test_the_manifest_names_model_versions_and_inputs(tree):
    manifest = json.loads(json.dumps(job_of(tree).manifest()))
    assert manifest["rows"] == 17
    assert manifest["units"] == 5
    assert len(manifest["inputs"]) == 3
    assert manifest["inputs"][0]["size"] > 0
    assert manifest["identity"]["model.hash"]
    assert manifest["versions"]["torch"] != "not installed"
    assert manifest["config"]["sampling"]["max_new_tokens"] == 24


def test_a_block_size_above_the_heads_is_refused_at_once(tree):
    tree["decode"]["block_size"] = 9
    assert refusal(tree) == "decode.block_size must be <= 8, the head's own, got 9"


def test_a_context_above_the_models_is_refused_at_once(tree):
    tree["decode"]["max_context"] = 5000
    assert refusal(tree) == "decode.max_context must be <= 1024, the model's positions, got 5000"


def test_a_model_without_a_head_is_refused_at_once_where_nothing_is_looked_up(tree, tmp_path):
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain/config.json").write_text(json.dumps({"model_type": "qwen3"}))
    tree["model"]["path"] = str(tmp_path / "plain")
    tree["decode"]["lookup_tokens"] = 0
    assert "without a diffusion head" in refusal(tree)


def test_input_without_rows_is_refused(tree, tmp_path):
    pq.write_table(
        pa.table({"id": pa.array([], pa.string()), "prompt": pa.array([], pa.string())}),
        tmp_path / "e.parquet",
    )
    tree["input"]["paths"] = [str(tmp_path / "e.parquet")]
    assert refusal(tree) == "input.paths: the files have no rows"


def test_a_shard_without_the_prompt_column_is_refused(tree, prompts_dir):
    pq.write_table(pa.table({"text": ["x"]}), prompts_dir / "d.parquet")
    assert f"{prompts_dir}/d.parquet: no column prompt, id (it has text)" in refusal(tree)


def test_a_preview_renders_the_first_prompts(tree):
    rows = preview(job_of(tree)).rows
    assert [row.id for _, row in rows] == ["row-0", "row-1", "row-2"]
    assert rows[1][0] == "<|im_start|>user\nAdd 1 and 2.<|im_end|>\n<|im_start|>assistant\n"


def test_a_preview_reads_a_row_of_every_shard(tree, prompts_dir):
    job = job_of(tree)
    path = prompts_dir / "c.parquet"
    content = bytearray(path.read_bytes())
    content[4:200] = bytes(196)  # the pages, not the footer
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"1 bad input file\(s\): .*c.parquet"):
        preview(job)


def test_a_preview_of_jsonl_works_too(tree, tmp_path):
    (tmp_path / "p.jsonl").write_text(
        '{"id": "a", "prompt": "one"}\nnonsense\n{"id": "c", "prompt": "three"}\n'
    )
    tree["input"]["paths"] = [str(tmp_path / "p.jsonl")]
    rows = preview(job_of(tree)).rows
    assert [row.id for _, row in rows] == ["a", "0:1", "c"]
    assert rows[1][1].error.startswith("line is not json")


def test_a_prompt_says_what_its_line_says_and_nothing_of_other_lines(tree, tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(
        '{"v": 1, "m": {"a": 1}}\n{"v": 2.5, "m": {"b": {}}}\n{"v": 18446744073709551616, "m": "x"}\n'
    )
    tree["input"] |= {"paths": [str(path)], "id_column": None}
    tree["input"]["prompt"] = {"template": "{{ v }} {{ m }}", "chat": False}
    job = job_of(tree)
    assert [text for text, _ in preview(job).rows] == [
        "1 {'a': 1}",
        "2.5 {'b': {}}",
        "18446744073709551616 x",
    ]
    assert job.layout.carried == pa.schema([("v", pa.string()), ("m", pa.string())])


def test_shards_may_disagree_on_columns_that_are_not_carried(tree, prompts_dir):
    for name, value in (("d", 1), ("e", "one")):
        pq.write_table(
            pa.table({"id": ["x"], "prompt": ["x"], "n": [value]}), prompts_dir / f"{name}.parquet"
        )
    assert "column n is int64 in earlier files and string in " in refusal(tree)
    tree["input"]["carry"] = ["prompt"]
    assert job_of(tree).layout.carried.names == ["prompt"]


def test_a_report_cannot_group_by_a_column_that_is_not_carried(tree):
    tree["report"] = {"group_by": "domain"}
    assert refusal(tree) == "report.group_by: domain is no carried column; there are prompt"


def test_audit_and_report_are_not_in_the_fingerprint(tree):
    before = job_of(tree).fingerprint
    tree |= {"audit": {"fraction": 0.5}, "report": {"group_by": "prompt", "gpu_hour_price": 2.5}}
    assert job_of(tree).fingerprint == before


def begun_before_an_option(tree, name: str):
    """A run that an earlier version began, which did not know the option."""
    job = job_of(tree)
    identity = {key: value for key, value in job.identity.items() if key != name}
    older = replace(job, identity=identity)
    job.ledger.start(job.plan, older.manifest())
    return older


def test_a_run_goes_on_with_a_version_that_has_more_options(tree):
    older = begun_before_an_option(tree, "output.rename")
    assert job_of(tree).fingerprint == older.fingerprint


def test_an_option_that_the_run_did_not_know_may_not_be_set_when_it_goes_on(tree):
    begun_before_an_option(tree, "output.rename")
    changed = tree | {"output": tree["output"] | {"rename": {"completion": "text"}}}
    assert 'output.rename was null, is {"completion": "text"}' in refusal(changed)
