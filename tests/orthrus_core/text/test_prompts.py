"""What `Engine.generate` takes and gives back: text and messages where there is a tokenizer."""

import logging

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from transformers import BatchEncoding

from orthrus_core import Engine, EngineConfig, SamplingParams
from orthrus_core.errors import ConfigError
from tests.small_models import small_backbone, small_orthrus
from tests.tokenizers import ByteTokenizer, fast_tokenizer

EOS, MASK = 95, 96
CONFIG = EngineConfig(max_context=64, self_check=False)
PARAMS = SamplingParams(max_new_tokens=6)
TEMPLATE = (
    "{% for message in messages %}[{{ message.role }}]{{ message.content }}"
    "{% if not loop.last or message.role != 'assistant' %};{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture(scope="module")
def model():
    return small_orthrus(eos_token_id=EOS)


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = fast_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.fixture(scope="module")
def engine(model, tokenizer):
    return Engine(model, CONFIG, tokenizer)


@pytest.fixture(scope="module")
def mute(model):
    return Engine(model, CONFIG)


def refusal(engine, prompts, params=PARAMS) -> str:
    with pytest.raises(ConfigError) as caught:
        engine.generate(prompts, params)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def ids_of(engine, prompts) -> list[list[int]]:
    return [completion.token_ids for completion in engine.generate(prompts, PARAMS)]


def test_a_text_is_taken_as_it_is(engine, tokenizer):
    assert ids_of(engine, ["Hello"]) == ids_of(engine, [tokenizer.encode("Hello")])


def test_a_text_that_has_its_first_token_gets_no_second_one(engine, tokenizer, monkeypatch):
    asked = []
    monkeypatch.setattr(tokenizer, "bos_token", "<eos>")
    monkeypatch.setattr(tokenizer, "encode", lambda text, **options: asked.append(options) or [5])
    engine.generate(["<eos>Hi", "Hi"], PARAMS)
    assert asked == [{"add_special_tokens": False}, {"add_special_tokens": True}]


def test_messages_go_through_the_chat_template(engine):
    assert ids_of(engine, [[{"role": "user", "content": "Hi"}]]) == ids_of(engine, ["[user]Hi;[assistant]"])


def test_a_turn_that_the_assistant_began_is_continued(engine):
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "We"}]
    assert ids_of(engine, [messages]) == ids_of(engine, ["[user]Hi;[assistant]We"])


def test_texts_messages_and_ids_may_stand_side_by_side(engine):
    mixed = engine.generate(["Hi", [{"role": "user", "content": "Hi"}], [5, 6]], PARAMS)
    assert [completion.error for completion in mixed] == [None] * 3


@pytest.mark.parametrize(
    "prompts",
    [
        torch.tensor([[5, 6, 7]]),
        np.array([[5, 6, 7]]),
        [torch.tensor([5, 6, 7])],
        [list(np.array([5, 6, 7]))],
    ],
)
def test_tensors_and_arrays_are_ids_too(mute, prompts):
    assert ids_of(mute, prompts) == ids_of(mute, [[5, 6, 7]])


def test_completions_have_their_text(engine, tokenizer):
    [completion] = engine.generate(["Hello"], PARAMS)
    assert completion.text == tokenizer.decode(completion.token_ids, skip_special_tokens=True)
    assert len(completion.text) == 6


def test_the_text_ends_before_the_stop_string_unless_that_is_asked_for(engine):
    [whole] = engine.generate(["Hello"], PARAMS)
    stop = whole.text[3]
    before, found, _ = whole.text.partition(stop)
    for include, expected in ((False, before), (True, before + found)):
        params = PARAMS.model_copy(update={"stop": (stop,), "include_stop_str": include})
        assert engine.generate(["Hello"], params)[0].text == expected


def test_without_a_tokenizer_and_on_error_there_is_no_text(engine, mute):
    assert [c.text for c in (*mute.generate([[5]], PARAMS), *engine.generate([""], PARAMS))] == [None, None]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("Hello", "generate takes a list of prompts, got a str: pass ['Hello']"),
        ([5, 6, 7, 8], "generate takes a list of prompts, got one prompt's ids: pass [[5, 6, 7]]"),
        (torch.tensor([5, 6]), "generate takes a list of prompts, got one prompt's ids: pass [[5, 6]]"),
        (
            [{"role": "user", "content": "Hi"}],
            "generate takes a list of prompts, got one prompt's messages: pass [messages]",
        ),
        (
            BatchEncoding({"input_ids": [[5]]}),
            "generate takes a list of prompts, got a BatchEncoding; pass its input_ids",
        ),
        (
            [BatchEncoding({"input_ids": [5]})],
            "prompt 0 must be text, messages or a list of token ids, got BatchEncoding: pass its input_ids",
        ),
        ([[5], None], "prompt 1 must be text, messages or a list of token ids, got NoneType"),
        ([b"Hello"], "prompt 0 must be text, messages or a list of token ids, got bytes"),
        (5, "generate takes a list of prompts, got a int"),
        ([[True]], "prompt 0 must be text, messages or a list of token ids, got a list of bool"),
        ([[5, 1.5]], "prompt 0 must be text, messages or a list of token ids, got a list of float, int"),
        ([[[5, 6]]], "prompt 0 must be text, messages or a list of token ids, got a list of list"),
        ([["Hello"]], "prompt 0 must be text, messages or a list of token ids, got a list of str"),
        (["\ud800"], "prompt 0 has text that cannot be encoded as UTF-8"),
    ],
)
def test_what_is_no_list_of_prompts_is_refused_in_one_line(engine, prompts, message):
    assert refusal(engine, prompts) == message


def test_a_chat_template_that_fails_is_told(engine, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", "{{ 1 / 0 }}")
    assert refusal(engine, [[{"role": "user", "content": "Hi"}]]).startswith(
        "prompt 0: the chat template fails: "
    )


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("Hello", "prompt 0 is text, and the engine has no tokenizer with encode: "),
        (
            [{"role": "user", "content": "Hi"}],
            "prompt 0 consists of messages, and the engine has no tokenizer with apply_chat_template: ",
        ),
    ],
)
def test_text_needs_a_tokenizer_that_can_do_more_than_decode(mute, model, prompt, message):
    for engine in (mute, Engine(model, CONFIG, ByteTokenizer.of_letters(97))):
        assert refusal(engine, [prompt]) == f"{message}pass Engine(model, config, tokenizer=...)"


@pytest.mark.parametrize("params", [{"max_new_tokens": 3}, "greedy", 3, [{"max_new_tokens": 3}]])
def test_other_params_are_refused(mute, params):
    kind = type(params[0] if isinstance(params, list) else params).__name__
    error = refusal(mute, [[5]], params)
    assert error == f"generate takes SamplingParams, one or as many as prompts, got {kind}"


@pytest.mark.parametrize("stop", [{"eos_token_id": 97}, {"eos_token_id": (5, 97)}, {"stop_token_ids": (97,)}])
def test_a_stop_id_beyond_the_vocabulary_is_the_requests_error(mute, stop):
    [completion] = mute.generate([[5]], SamplingParams(**stop))
    assert completion.error == "stop ids [97] can never come: the vocabulary has ids 0 to 96"


@pytest.mark.parametrize("stop", [{"eos_token_id": -1}, {"eos_token_id": (5, -1)}, {"stop_token_ids": (-1,)}])
def test_a_negative_stop_id_is_refused(stop):
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        SamplingParams(**stop)


@pytest.mark.parametrize(
    ("config", "tokenizer", "message"),
    [
        ({"max_context": 4}, None, "Engine takes an EngineConfig after the model, got dict: "),
        (
            fast_tokenizer(),
            None,
            "Engine takes an EngineConfig after the model, got TokenizersBackend: ",
        ),
        (CONFIG, "a/path", "Engine takes a tokenizer of transformers, got str: "),
    ],
)
def test_an_engine_with_something_else_than_a_config_and_a_tokenizer_is_refused(
    model, config, tokenizer, message
):
    with pytest.raises(ConfigError) as caught:
        Engine(model, config, tokenizer)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("model", [small_backbone(), "a/path", None], ids=type)
def test_an_engine_on_something_else_than_a_model_with_two_views_is_refused(model):
    with pytest.raises(ConfigError) as caught:
        Engine(model)
    assert str(caught.value).startswith(
        f"Engine takes a model with two views, got {type(model).__name__}: load_model(path) loads one"
    )


def test_a_start_tells_its_phases(model, caplog):
    caplog.set_level(logging.INFO)
    Engine(model, EngineConfig(max_context=32, max_sequences=2, token_budget=8))
    phases = ("measuring forwards", "checking that budgets=", "engine ready exactness=exact")
    told = [phase for message in caplog.messages for phase in phases if message.startswith(phase)]
    assert told == list(phases)
