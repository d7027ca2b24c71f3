"""Mistakes of the user: one line each, with where, rule, value and repair."""

import json
import shutil

import pytest
import torch

from jobs.train import main
from orthrus_core.errors import ConfigError
from orthrus_core.models.loading import load_model
from pipelines.train.backbone import find_backbone, load_backbone
from pipelines.train.dry_run import dry_run
from pipelines.train.job import train
from tests.pipelines.train.conftest import write_rows
from tests.small_models import small_backbone


def refused(config) -> str:
    with pytest.raises(ConfigError) as caught:
        train(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_backbone_is_named_before_anything_is_written(make_config, tmp_path):
    message = refused(make_config(tmp_path / "out", "backbone=no-such-place"))
    assert message.startswith("backbone: no directory no-such-place")
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_larger_than_the_embeddings_is_refused(make_config, plain_backbone, tmp_path):
    small_backbone(vocab_size=200, eos_token_id=2).save_pretrained(tmp_path / "small")
    shutil.copy(plain_backbone / "tokenizer.json", tmp_path / "small")
    shutil.copy(plain_backbone / "tokenizer_config.json", tmp_path / "small")
    message = refused(make_config(tmp_path / "out", f"backbone={tmp_path / 'small'}"))
    assert "must have at most the 200 tokens that the model has embeddings for, got 1024" in message


def test_of_a_model_with_a_head_the_backbone_alone_is_taken(make_config, model_dir, tmp_path):
    found = find_backbone(make_config(tmp_path / "out", f"backbone={model_dir}"))
    backbone = load_backbone(found.checkpoint)
    with_head = load_model(model_dir).state_dict()
    assert all(torch.equal(with_head[name], value) for name, value in backbone.state_dict().items())
    assert not any("_diff" in name for name in backbone.state_dict())


@pytest.mark.parametrize(("mask", "rule"), [(1024, "must be < 1024"), (2, "another token than the end of")])
def test_a_mask_token_must_fit_the_vocabulary(make_config, tmp_path, mask, rule):
    assert rule in refused(make_config(tmp_path / "out", f"head.mask_token_id={mask}"))


def test_sequences_longer_than_the_window_are_refused(make_config, tmp_path):
    message = refused(make_config(tmp_path / "out", "packing.sequence_len=1025"))
    assert message == "packing.sequence_len must be <= 1024, the backbone's window, got 1025"


def test_rows_longer_than_the_sequence_are_refused(make_config, tmp_path):
    settings = ("packing.sequence_len=40", "data.too_long=refuse")
    message = refused(make_config(tmp_path / "out", *settings))
    assert "rows longer than packing.sequence_len 40: raise it, or set data.too_long=drop" in message


def test_data_of_another_tokenizer_is_refused(make_config, tmp_path):
    write_rows(tmp_path / "generated" / "data" / "a.parquet", [[1]] * 9, [[4, 2]] * 9)
    manifest = {"identity": {"tokenizer.hash": "other"}, "units": 1, "model": {"path": "elsewhere"}}
    (tmp_path / "generated" / "_run").mkdir()
    (tmp_path / "generated" / "_run" / "manifest.json").write_text(json.dumps(manifest))
    settings = [f"data.path={tmp_path / 'generated'}", "loop.max_tokens=20"]
    message = refused(make_config(tmp_path / "out", *settings))
    assert "must be made with the backbone's tokenizer, got that of elsewhere" in message
    assert train(make_config(tmp_path / "out", *settings, "data.check_tokenizer=false")).finished


def test_data_of_another_directory_with_the_same_vocabulary_is_taken(make_config, plain_backbone, tmp_path):
    write_rows(tmp_path / "generated" / "data" / "a.parquet", [[1]] * 9, [[4, 2]] * 9)
    manifest = {"identity": {"tokenizer.hash": "other"}, "units": 1, "model": {"path": str(plain_backbone)}}
    (tmp_path / "generated" / "_run").mkdir()
    (tmp_path / "generated" / "_run" / "manifest.json").write_text(json.dumps(manifest))
    data = f"data.path={tmp_path / 'generated'}"
    assert train(make_config(tmp_path / "out", data, "loop.max_tokens=20")).finished


def test_ids_beyond_the_vocabulary_are_refused(make_config, tmp_path):
    write_rows(tmp_path / "in" / "a.parquet", [[1]] * 9, [[4, 1024]] * 9)
    message = refused(make_config(tmp_path / "out", f"data.path={tmp_path / 'in'}"))
    assert "outside the backbone's vocabulary of 1024, such as 1024" in message


def test_data_without_completions_is_refused(make_config, tmp_path):
    write_rows(tmp_path / "in" / "a.parquet", [[1]] * 9, [None] * 9)
    message = refused(make_config(tmp_path / "out", f"data.path={tmp_path / 'in'}"))
    assert "no row with a prompt and a completion" in message
    assert "9 without completion" in message


def test_more_held_out_rows_than_there_are_are_refused(make_config, tmp_path):
    config = make_config(tmp_path / "out", "data.held_out_documents=24")
    message = refused(config)
    assert message == "data.held_out_documents must be below the 24 documents that can be used, got 24"
    with pytest.raises(ConfigError, match=message):
        dry_run(config)


@pytest.mark.parametrize("held", ["notes.txt", "_run/manifest.json"])
def test_an_output_that_holds_something_else_is_left_alone(make_config, tmp_path, held):
    path = tmp_path / "out" / held
    path.parent.mkdir(parents=True)
    path.write_text('{"identity": {}, "units": 3}')
    assert "is not empty and no training output" in refused(make_config(tmp_path / "out"))
    assert [file for file in (tmp_path / "out").rglob("*") if file.is_file()] == [path]


def test_an_output_in_rays_copy_of_the_working_directory_is_refused(make_config, tmp_path):
    copy = tmp_path / "runtime_resources/working_dir_files/_ray_pkg_1"
    copy.mkdir(parents=True)
    assert "lies in Ray's copy of the working directory" in refused(make_config(copy / "out"))
    assert not list(copy.iterdir())


def test_credentials_have_no_place_in_paths(make_config, tmp_path):
    with pytest.raises(ConfigError, match="must be a URL without credentials") as caught:
        make_config("s3://user:secret@bucket/out")
    assert "secret@" not in str(caught.value)


def test_a_mistake_is_one_line_and_exit_code_2(capsys, tmp_path):
    values = ("backbone=no-such-place", f"output.path={tmp_path / 'out'}")
    arguments = ["--config", "configs/train/demo-head.yaml", *(w for v in values for w in ("--set", v))]
    assert main(arguments) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("config error: backbone: no directory")
