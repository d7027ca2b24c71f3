"""What a run makes of the checkpoint's generation_config.json."""

import json
import logging
import shutil

import pytest
from transformers import GenerationConfig

from orthrus_core.errors import ConfigError
from pipelines.generate.config.job import GenerateConfig
from pipelines.generate.job.generation_config import NO_EFFECT, OPTIONS, resolve
from tests.pipelines.conftest import job_of

QWEN = {
    "do_sample": True,
    "temperature": 0.6,
    "top_k": 20,
    "top_p": 0.95,
    "repetition_penalty": 1.05,
    "eos_token_id": [2, 5],
    "pad_token_id": 0,
    "transformers_version": "4.51.0",
}


@pytest.fixture
def outcome(tmp_path):
    def of(stored, **sampling):
        (tmp_path / "generation_config.json").write_text(
            stored if isinstance(stored, str) else json.dumps(stored)
        )
        tree = {
            "input": {"paths": "in", "prompt": {"column": "q"}},
            "model": {"path": "m"},
            "output": {"path": "out"},
            "sampling": {"generation_config": "use", **sampling},
        }
        config, fates = resolve(GenerateConfig.model_validate(tree), str(tmp_path))
        return config.sampling, fates

    return of


def test_its_options_go_before_the_defaults(outcome):
    sampling, fates = outcome(QWEN | {"max_new_tokens": 9, "min_p": 0.1, "stop_strings": ["a", "b"]})
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p) == (0.6, 20, 0.95, 0.1)
    assert (sampling.eos_token_id, sampling.max_new_tokens, sampling.stop) == ((2, 5), 9, ("a", "b"))
    assert sampling.repetition_penalty == 1.05
    assert fates["unsupported"] == fates["left"] == {}


def test_edits_of_logits_are_taken_under_our_names(outcome):
    sampling, fates = outcome({"min_new_tokens": 3, "bad_words_ids": [[4], [5, 6]], "max_new_tokens": 9})
    assert (sampling.min_tokens, sampling.bad_words) == (3, ((4,), (5, 6)))
    assert fates["taken"].keys() == {"min_tokens", "bad_words", "max_new_tokens"}


def test_what_the_config_sets_goes_before_it(outcome):
    sampling, fates = outcome(QWEN, temperature=0.0, top_p=1.0)
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.0, 20, 1.0)
    assert fates["left"] == {"temperature": 0.6, "top_p": 0.95}


def test_sampling_without_numbers_has_those_of_transformers(outcome):
    sampling, _ = outcome({"do_sample": True})
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (1.0, 50, 1.0)


def test_filters_of_a_checkpoint_that_does_not_sample_are_left(outcome):
    sampling, fates = outcome({"temperature": 0.6, "top_k": 20})
    assert (sampling.temperature, sampling.top_k) == (0.0, 0)
    assert fates["left"] == {"temperature": 0.6, "top_k": 20}


def test_ignored_it_changes_nothing_and_is_named(outcome, caplog):
    caplog.set_level(logging.INFO)
    sampling, fates = outcome(QWEN, generation_config="ignore")
    assert (sampling.temperature, sampling.eos_token_id) == (0.0, None)
    assert fates["left"].keys() == {"temperature", "top_k", "top_p", "min_p", "repetition_penalty"}
    [record] = caplog.records
    assert record.getMessage().startswith('sampling.generation_config ignore: left={"temperature": 0.6')


def test_what_the_engine_has_not_is_warned_of(outcome, caplog):
    stored = {"suppress_tokens": [1], "guidance_scale": 2.0, "repetition_penalty": 1.0, "num_beams": 4}
    outcome(stored)
    [record] = caplog.records
    assert record.getMessage() == (
        'sampling.generation_config use: unsupported={"suppress_tokens": [1], "guidance_scale": 2.0, '
        '"num_beams": 4}'
    )


@pytest.mark.parametrize("name", sorted({*vars(GenerationConfig()), "of_the_future"} - {"do_sample"}))
def test_no_field_is_ignored_in_silence(outcome, name):
    values = {"eos_token_id": 7, "stop_strings": "x", "max_new_tokens": 7, "min_new_tokens": 7}
    value = (values | {"bad_words_ids": [[7]]}).get(name, 0.7)
    stored = {name: 3 if name == "top_k" else value}
    _, fates = outcome(stored | ({"do_sample": True} if name in ("temperature", "top_k") else {}))
    if name in NO_EFFECT or name.startswith("_"):
        assert not any(fates.values())
    elif name in OPTIONS:
        assert OPTIONS[name] in fates["taken"] or name in fates["left"]
    else:
        assert fates["unsupported"] == stored


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        ("{", "is no JSON: "),
        ("[1]", "must hold a JSON object, got list"),
        ({"do_sample": True, "top_p": 1.5}, "top_p must be <= 1.0, got 1.5; set it in sampling, or ignore"),
        ({"do_sample": True, "temperature": "hot"}, "temperature must be a valid number, got 'hot'; "),
    ],
)
def test_a_file_that_cannot_be_used_is_a_config_error(outcome, stored, reason):
    with pytest.raises(ConfigError) as caught:
        outcome(stored)
    assert reason in str(caught.value)


def test_the_resolved_options_are_the_runs_identity(tree, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tree["model"]["path"], model)
    (model / "generation_config.json").write_text(json.dumps(QWEN))
    tree["model"]["path"] = str(model)
    tree["sampling"]["generation_config"] = "use"
    job = job_of(tree)
    assert job.identity["sampling.temperature"] == job.manifest()["config"]["sampling"]["temperature"] == 0.6
    assert job.config.sampling.params.eos_token_id == (2, 5)
    assert job.identity["sampling.repetition_penalty"] == 1.05
    tree["sampling"] |= {"generation_config": "ignore", "temperature": 0.6, "top_k": 20, "top_p": 0.95}
    tree["sampling"] |= {"eos_token_id": [2, 5], "repetition_penalty": 1.05}
    assert job_of(tree).fingerprint == job.fingerprint
