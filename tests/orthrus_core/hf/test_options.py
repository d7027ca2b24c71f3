import logging

import pytest
import torch
from transformers import GenerationConfig

from orthrus_core import Engine, EngineConfig, SamplingParams
from orthrus_core.errors import ConfigError
from orthrus_core.hf import options as options_module
from orthrus_core.hf.options import IGNORED_OPTIONS, USED_OPTIONS
from tests.orthrus_core.models.greedy import PAD, engine_equals_transformers, prompts, some_emitted
from tests.small_models import small_orthrus


def test_a_given_generation_config_is_used():
    input_ids, _ = prompts(8)
    model = small_orthrus()
    eos = some_emitted(model, input_ids, 4)
    config = GenerationConfig(max_new_tokens=9, eos_token_id=[96, eos], pad_token_id=PAD)
    assert engine_equals_transformers(model, input_ids, generation_config=config).shape[1] == 8 + 5


def test_what_a_given_generation_config_leaves_open_comes_from_the_models_own():
    input_ids, mask = prompts(8, 3)
    model = small_orthrus()
    model.generation_config.eos_token_id = some_emitted(model, input_ids, 4)
    model.generation_config.pad_token_id = PAD
    config = GenerationConfig(max_new_tokens=9)
    engine_equals_transformers(model, input_ids, attention_mask=mask, generation_config=config)


def test_sampling_in_the_models_generation_config_is_left_out_with_a_warning(caplog):
    input_ids, _ = prompts(8)
    model = small_orthrus()
    expected = model.generate(input_ids, do_sample=False, max_new_tokens=9)
    model.generation_config.update(do_sample=True, temperature=0.6, top_k=20, top_p=0.95)
    with caplog.at_level(logging.WARNING):
        out = model.generate(input_ids, use_diffusion_mode=True, max_new_tokens=9)
    assert torch.equal(out, expected)
    assert "use_diffusion_mode decodes greedily" in caplog.text


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"do_sample": True}, {}),
        ({"temperature": 0.7}, {"temperature": 0.7}),
        ({"do_sample": True, "top_k": 5, "min_p": 0.1, "seed": 3}, {"top_k": 5, "min_p": 0.1, "seed": 3}),
        ({"generation_config": GenerationConfig(do_sample=True, top_p=0.5)}, {"top_p": 0.5}),
    ],
)
@pytest.mark.parametrize("use_diffusion_mode", [True, False])
def test_sampling_asked_for_is_the_engines_with_the_defaults_of_transformers(
    options, expected, use_diffusion_mode
):
    input_ids, _ = prompts(8)
    model = small_orthrus()
    params = SamplingParams(**{"max_new_tokens": 9, "temperature": 1.0, "top_k": 50} | expected)
    [completion] = Engine(model, EngineConfig(max_context=32)).generate(input_ids.tolist(), params)
    out = model.generate(input_ids, use_diffusion_mode=use_diffusion_mode, max_new_tokens=9, **options)
    assert out[0, 8:].tolist() == completion.token_ids


def test_sampling_that_is_asked_for_takes_the_models_own_temperature():
    input_ids, _ = prompts(8)
    model = small_orthrus()
    expected = model.generate(
        input_ids, use_diffusion_mode=True, do_sample=True, temperature=0.6, top_k=20, max_new_tokens=9
    )
    model.generation_config.update(do_sample=True, temperature=0.6, top_k=20)
    out = model.generate(input_ids, use_diffusion_mode=True, do_sample=True, max_new_tokens=9)
    assert torch.equal(out, expected)


FIELDS = [name for name in vars(GenerationConfig()) if not name.startswith("_")]
# Without these, transformers fails, or recomputes what it does not cache and gets other tokens.
TRANSFORMERS_NEEDS = {"num_beams", "num_return_sequences", "max_length", "use_cache"}


def test_none_turns_every_option_off_as_in_transformers():
    input_ids, _ = prompts(8)
    model = small_orthrus()
    model.generation_config.eos_token_id = some_emitted(model, input_ids, 1)
    base = {"max_length": 11, "eos_token_id": [96, 95], "do_sample": False}
    for name in sorted(set(FIELDS) - TRANSFORMERS_NEEDS):
        options = base | {name: None}
        expected = model.generate(input_ids, **options)
        assert torch.equal(model.generate(input_ids, use_diffusion_mode=False, **options), expected), name


def test_without_an_eos_by_keyword_a_completion_goes_on_to_its_length():
    input_ids, _ = prompts(8)
    model = small_orthrus()
    model.generation_config.eos_token_id = some_emitted(model, input_ids, 4)
    out = engine_equals_transformers(model, input_ids, eos_token_id=None, max_new_tokens=9)
    assert out.shape[1] == 8 + 9


def test_an_eos_of_the_config_alone_ends_nothing_as_in_transformers():
    input_ids, _ = prompts(8)
    model = small_orthrus()
    model.config.eos_token_id = some_emitted(model, input_ids, 4)
    assert engine_equals_transformers(model, input_ids, max_new_tokens=9).shape[1] == 8 + 9


@pytest.mark.parametrize(
    ("name", "off"), [("top_k", 0), ("top_p", 1.0), ("min_p", 0.0), ("temperature", 1.0)]
)
def test_none_turns_a_filter_off_where_sampling_is_asked_for(name, off):
    input_ids, _ = prompts(8)
    model = small_orthrus()
    model.generation_config.update(temperature=0.5, top_k=3, top_p=0.6, min_p=0.2)
    options = {"use_diffusion_mode": True, "do_sample": True, "max_new_tokens": 9}
    out = model.generate(input_ids, **options, **{name: None})
    assert torch.equal(out, model.generate(input_ids, **options, **{name: off}))


def test_no_field_of_transformers_is_ignored_in_silence():
    """A number that no option means nothing by; with sampling, where all of them count."""
    model, (input_ids, _) = small_orthrus(), prompts(8)
    for name in sorted(set(FIELDS) - USED_OPTIONS - IGNORED_OPTIONS):
        with pytest.raises(ConfigError, match=f"has no {name}, got 0.375"):
            model.generate(input_ids, use_diffusion_mode=True, do_sample=True, **{name: 0.375})


@pytest.mark.parametrize("name", ["forced_eos_token_id", "max_time", "begin_suppress_tokens"])
def test_zero_is_no_neutral_value_where_it_means_something(name):
    with pytest.raises(ConfigError, match=f"has no {name}, got 0"):
        small_orthrus().generate(prompts(8)[0], use_diffusion_mode=True, **{name: 0})


def test_a_field_that_a_later_transformers_may_have_is_refused(monkeypatch):
    class Later(GenerationConfig):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.repetition_bonus = kwargs.get("repetition_bonus")

    monkeypatch.setattr(options_module, "GenerationConfig", Later)
    model = small_orthrus()
    model.generation_config.repetition_bonus = 0
    with pytest.raises(ConfigError, match="has no repetition_bonus, got 0"):
        model.generate(prompts(8)[0], use_diffusion_mode=True)


def test_entries_that_transformers_does_not_know_are_refused_or_warned_of(caplog):
    model = small_orthrus()
    config = GenerationConfig(repetition_penalti=1.2)
    with pytest.raises(ConfigError, match="does not take repetition_penalti"):
        model.generate(prompts(8)[0], use_diffusion_mode=True, generation_config=config)
    model.generation_config.chat_format = "raw"
    model.generate(prompts(8)[0], use_diffusion_mode=True, max_new_tokens=1)
    assert "the model's generation_config has chat_format, which nothing here knows" in caplog.text


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": False},
        {"do_sample": False, "temperature": 0.7, "top_k": 5},
        {"temperature": 0.0},
        {"typical_p": 0.5},
        {"num_beams": 1, "num_return_sequences": 1, "repetition_penalty": 1.0, "use_cache": True},
        {"return_dict_in_generate": False, "output_scores": False, "stopping_criteria": None},
    ],
)
def test_options_that_change_nothing_are_taken(options):
    input_ids, _ = prompts(8)
    model = small_orthrus()
    expected = model.generate(input_ids, do_sample=False, max_new_tokens=5)
    out = model.generate(input_ids, use_diffusion_mode=True, max_new_tokens=5, **options)
    assert torch.equal(out, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"do_sample": True, "typical_p": 0.5}, "has no typical_p, got 0.5"),
        ({"do_sample": True, "top_p": 1.5}, "top_p: Input should be less than or equal to 1, got 1.5"),
        ({"num_beams": 2}, "has no num_beams, got 2"),
        ({"num_return_sequences": 3}, "has no num_return_sequences, got 3"),
        ({"min_length": 1}, "has no min_length, got 1"),
        ({"sequence_bias": {(1, 2): 1.0}}, r"sequence_bias must name single tokens, got \(1, 2\)"),
        ({"repetition_penalty": -1.0}, "repetition_penalty: Input should be greater than 0, got -1.0"),
        ({"num_beams": 3}, "has no num_beams, got 3: there is no beam search: a step verifies one"),
        ({"return_dict_in_generate": True}, "has no return_dict_in_generate, got True"),
        ({"stop_strings": ["x"]}, "stop_strings are looked for in text: pass tokenizer=... to generate too"),
        ({"generation_config": GenerationConfig(num_beams=2)}, "has no num_beams, got 2"),
        ({"logits_processor": [1]}, "does not take logits_processor: there are no callbacks on logits"),
        ({"use_difusion": False, "beams": 1}, "does not take beams, use_difusion"),
        ({"block_size": 9}, "block_size must be <= 8"),
        ({"block_size": 0}, "block_size: Input should be greater than or equal to 1, got 0"),
        ({"token_budget": 1}, "token_budget: Input should be greater than or equal to 4, got 1"),
        ({"max_new_tokens": 0}, "must have max_new_tokens >= 1"),
        ({"attention_mask": torch.ones(1, 7)}, "attention_mask must have the shape of input_ids"),
    ],
)
def test_options_that_the_engine_does_not_have_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        small_orthrus().generate(prompts(8)[0], use_diffusion_mode=True, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.3},
        {"bad_words_ids": [[3], [7, 9]], "suppress_tokens": [11, 12]},
        {"sequence_bias": {(5,): 4.0, (6,): -2.0}},
        {"min_new_tokens": 7},
        {"repetition_penalty": 0.8, "sequence_bias": [[[5], 2.5]], "min_new_tokens": 6},
    ],
    ids=str,
)
@pytest.mark.parametrize("is_own", [False, True])
def test_what_edits_logits_does_what_it_does_in_transformers(options, is_own):
    input_ids, _ = prompts(8)
    model = small_orthrus(sameness=0.2)
    plain = model.generate(input_ids, do_sample=False, max_new_tokens=5)
    options = {"bad_words_ids": [[int(plain[0, 8])]]} | options | {"eos_token_id": int(plain[0, 12])}
    if is_own:
        model.generation_config.update(**options)
        options = {}
    out = engine_equals_transformers(model, input_ids, max_new_tokens=12, **options)
    assert not torch.equal(out[:, : plain.shape[1]], plain)
