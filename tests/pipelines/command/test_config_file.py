"""Configs: yaml, overrides, and errors of one line."""

import json
from pathlib import Path

import pytest
import yaml

from orthrus_core.errors import ConfigError
from pipelines.command.config_file import load_config
from pipelines.generate.config.job import GenerateConfig

CONFIGS = Path(__file__).parents[3] / "configs/generate"
SMALL = {
    "input": {"paths": "prompts", "prompt": {"column": "question"}},
    "model": {"path": "model"},
    "output": {"path": "out"},
}


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return path


def refusal(path, *overrides) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(GenerateConfig, path, overrides)
    return str(caught.value)


def test_one_path_becomes_a_list_of_one(config_file):
    assert load_config(GenerateConfig, config_file).input.paths == ("prompts",)


def test_an_override_wins_over_yaml_and_yaml_over_the_default(config_file):
    config_file.write_text(yaml.safe_dump(SMALL | {"run": {"unit_rows": 5, "actors": 2}}))
    config = load_config(GenerateConfig, config_file, ["run.unit_rows=9"])
    assert (config.run.unit_rows, config.run.actors, config.run.retries) == (9, 2, 3)


def test_an_override_takes_yaml_values(config_file):
    config = load_config(
        GenerateConfig, config_file, ["sampling.stop_token_ids=[4, 5]", "output.token_ids=true"]
    )
    assert config.sampling.stop_token_ids == (4, 5)
    assert config.output.token_ids is True


@pytest.mark.parametrize("setting", ['sampling.stop=["\\n\\n"]', 'sampling.stop="\\n\\n"'])
def test_stop_strings_are_one_or_a_list_and_reach_the_engine(config_file, setting):
    config = load_config(GenerateConfig, config_file, [setting, "sampling.max_new_tokens=8"])
    assert config.sampling.params.stop == ("\n\n",)


def test_a_bound_is_named_with_the_value_that_breaks_it(config_file):
    assert refusal(config_file, "run.unit_rows=0") == "run.unit_rows must be >= 1, got 0"


def test_an_unknown_key_gets_a_suggestion(config_file):
    assert refusal(config_file, "decode.blocksize=4") == (
        "decode.blocksize is not a known key, did you mean block_size?"
    )


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("max_tokens=5", "sampling has no max_tokens, did you mean max_new_tokens?"),
        ("stop_sequences=[a]", "sampling has no stop_sequences, did you mean stop?"),
        ("num_return_sequences=2", "sampling has no num_return_sequences, did you mean n?"),
        ("num_beams=2", "sampling has no num_beams: there is no beam search: a step verifies one"),
        ("logits_processors=[a]", "sampling has no logits_processors: there are no callbacks on logits: "),
    ],
)
def test_an_option_of_another_engine_is_named_with_ours_or_the_reason(config_file, setting, reason):
    assert refusal(config_file, f"sampling.{setting}").startswith(reason)


def test_a_value_within_a_list_is_named_with_its_rule(config_file):
    assert refusal(config_file, "sampling.logit_bias={5: 200}") == (
        "sampling.logit_bias[0][1] must be <= 100.0, got 200"
    )


def test_an_unknown_key_without_a_neighbour_gets_the_known_ones(config_file):
    assert refusal(config_file, "output.zzz=4") == (
        "output.zzz is not a known key; known: path, token_ids, prompt_token_ids, prefill, "
        "diagnostics, map, map_columns, rename, filters, compression, compact"
    )


def test_a_missing_key_is_named(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"input": SMALL["input"], "model": {}, "output": SMALL["output"]}))
    assert refusal(path) == "model.path is required"


@pytest.mark.parametrize("option", ["output.path", "model.path", "input.paths"])
def test_an_empty_path_is_named(config_file, option):
    where = "input.paths[0]" if option == "input.paths" else option
    assert refusal(config_file, f"{option}=''") == f"{where} must not be empty"


def test_all_mistakes_stand_in_one_line(config_file):
    text = refusal(config_file, "run.actors=0", "decode.mode=fast")
    assert (
        text
        == "decode.mode must be 'consensus' or 'autoregressive', got 'fast'; run.actors must be >= 1, got 0"
    )


def test_a_value_of_the_wrong_type_is_named(config_file):
    assert refusal(config_file, "run.actors=many") == "run.actors must be a whole number, got 'many'"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("sampling.temperature=-1", "sampling.temperature must be >= 0.0, got -1"),
        ("sampling.temperature=1e-9", "sampling.temperature must be 0 (greedy) or >= 0.0001, got 1e-09"),
        ("sampling.top_k=-1", "sampling.top_k must be >= 0, got -1"),
        ("sampling.top_p=0", "sampling.top_p must be > 0.0, got 0"),
        ("sampling.min_p=1.5", "sampling.min_p must be <= 1.0, got 1.5"),
        ("sampling.stop=['']", "sampling.stop must hold no empty string, got ['']"),
        ("sampling.seed=-1", "sampling.seed must be >= 0, got -1"),
    ],
)
def test_sampling_out_of_bounds_is_refused(config_file, setting, message):
    assert refusal(config_file, setting) == message


def test_a_prompt_has_exactly_one_source(config_file):
    text = refusal(config_file, "input.prompt.messages=m")
    assert text == "input.prompt must have exactly one of column, messages, template, got column and messages"


def test_messages_need_the_chat_template(config_file):
    text = refusal(config_file, "input.prompt={messages: m, chat: false}")
    assert text == "input.prompt must have chat: true with messages"


def test_an_override_without_a_value_is_refused(config_file):
    assert refusal(config_file, "run.actors") == "--set takes key.key=value, got 'run.actors'"


def test_an_override_below_a_value_is_refused(config_file):
    assert refusal(config_file, "model.path.x=1") == "--set model.path.x: path is a value, not a section"


def test_a_missing_config_file_is_one_line(tmp_path):
    assert (
        refusal(tmp_path / "none.yaml")
        == f"cannot read config {tmp_path}/none.yaml: No such file or directory"
    )


def test_a_key_that_a_section_has_twice_is_refused_with_both_lines(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("model: {path: a}\nsampling:\n  seed: 1\n  top_k: 2\n  seed: 3\n")
    assert "key seed is there already in line 3, and again in line 5" in refusal(path)
    path.write_text(yaml.safe_dump(SMALL))
    assert "key finish is there already" in refusal(path, "output.filters={finish: 1, finish: 2}")


def test_a_key_of_a_merged_section_may_be_given_again(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("model: &model {path: a, dtype: float32}\noutput: {<<: *model, path: b}\n")
    assert "twice" not in refusal(path)
    assert "is not yaml" not in refusal(path)


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ("{text: t}", "must name output columns, got text; there are id, sample, completion"),
        ("{error: completion}", "must give every output column a name of its own, got completion twice"),
        ("{error: ''}", "must give every output column a name, got none for error"),
    ],
)
def test_new_names_are_those_of_output_columns_and_differ(config_file, value, rule):
    assert rule in refusal(config_file, f"output.rename={value}")


def test_broken_yaml_is_one_line(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("input: [1,\n")
    text = refusal(path)
    assert "is not yaml" in text
    assert "\n" not in text


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs_load_and_say_what_they_need(path):
    load_config(GenerateConfig, path)
    text = path.read_text()
    assert text.startswith("#")
    assert "# Needs:" in text
    assert "# Takes:" in text


def test_every_option_is_described():
    def undescribed(cls):
        for name, field in cls.model_fields.items():
            if not field.description:
                yield f"{cls.__name__}.{name}"
            if hasattr(field.annotation, "model_fields"):
                yield from undescribed(field.annotation)

    assert list(undescribed(GenerateConfig)) == []


def test_a_config_is_read_from_a_url(s3):
    url = s3.new_bucket()
    s3.client().pipe_file(f"{url}/run.yaml", yaml.safe_dump(SMALL).encode())
    reach = [f"storage.{name}={json.dumps(value)}" for name, value in s3.storage().items()]
    config = load_config(GenerateConfig, f"{url}/run.yaml", [*reach, "run.unit_rows=9"])
    assert (config.input.paths, config.run.unit_rows) == (("prompts",), 9)


def test_a_config_that_is_not_at_its_url_is_one_line(s3):
    url = s3.new_bucket()
    reach = [f"storage.{name}={json.dumps(value)}" for name, value in s3.storage().items()]
    assert refusal(f"{url}/run.yaml", *reach) == f"cannot read config {url}/run.yaml: no such file"


def test_a_config_url_with_credentials_is_refused():
    message = refusal("s3://key:secret@bucket/run.yaml")
    assert message.startswith("--config must be a URL without credentials")
    assert "secret@" not in message


def test_most_actors_are_at_least_actors(config_file):
    assert (
        refusal(config_file, "run.actors=4", "run.max_actors=2")
        == "run must have max_actors >= actors, got 2 and 4"
    )


@pytest.mark.parametrize("word", ["on", "off", "auto", "'off'"])
def test_compile_takes_yamls_on_and_off(config_file, word):
    config = load_config(GenerateConfig, config_file, [f"decode.compile={word}"])
    assert config.decode.compile == word.strip("'")
