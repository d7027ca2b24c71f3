"""Grammars that cannot be had: one request ends with the reason, the others go on."""

import functools
import json
import sys

import pytest
from pydantic import ValidationError

import orthrus_core.choosers.grammar_compiler as grammar_module
from orthrus_core import Engine, EngineConfig, Request, SamplingParams
from orthrus_core.choosers.grammar_compiler import GrammarCompiler
from orthrus_core.choosers.grammar_trial import GrammarTrial
from orthrus_core.choosers.masks import allows
from orthrus_core.errors import RequestError
from tests.grammars import EOS, PERSON, V, grammar_model, obeys, tokenizer
from tests.small_models import small_orthrus
from tests.tokenizers import ByteTokenizer, fast_tokenizer

TOKENIZER = tokenizer()
CONFIG = EngineConfig(max_context=128, self_check=False)


def refusal(*, with_tokenizer=TOKENIZER, model=None, **params) -> str:
    """The error of a request; another one beside it must be unharmed."""
    engine = Engine(model or grammar_model(), CONFIG, with_tokenizer)
    bad, fine = engine.run(
        [
            Request([1, 2], SamplingParams(**params)),
            Request([1, 2], SamplingParams(max_new_tokens=5, ignore_eos=True)),
        ]
    )
    assert (bad.finish_reason, bad.token_ids) == ("error", [])
    assert (fine.finish_reason, len(fine.token_ids)) == ("length", 5)
    return bad.error


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"json_schema": {"not": {}}}, 'json_schema is refused: Unimplemented keys: ["not"]'),
        ({"json_schema": {"type": "intger"}}, "json_schema is refused: Invalid type: intger"),
        ({"json_schema": {"$ref": "#/nope"}}, "json_schema is refused: Pointer '/nope' does not exist"),
        (
            {"regex": "(?=a)b"},
            'invalid regex "(?=a)b" (in regex): regex parse error: (?=a)b ^^^ error: look-around',
        ),
        (
            {"json_schema": {"minProperties": 2}},
            "json_schema is refused: minProperties: 2 may be met by one key written twice: name the keys",
        ),
        ({"regex": "[a"}, "unclosed character class"),
        ({"regex": "a", "stop_token_ids": (5,)}, "stop ids that are special tokens of the tokenizer"),
        ({"regex": "a", "eos_token_id": ()}, "the model names no EOS: set eos_token_id"),
        (
            {"choices": ("日",)},
            "choices: the grammar is stuck after 0 tokens: no token of the vocabulary continues it",
        ),
    ],
    ids=str,
)
def test_a_grammar_that_cannot_be_had_is_one_request_s_error(params, reason):
    assert reason in refusal(**params)


def test_a_schema_that_takes_too_long_is_one_request_s_error_and_named(monkeypatch):
    monkeypatch.setattr(grammar_module, "GrammarTrial", functools.partial(GrammarTrial, limit_s=0.2))
    error = refusal(json_schema={"type": "integer", "multipleOf": 9999991})
    assert error == (
        'json_schema is refused: {"type": "integer", "multipleOf": 9999991} takes more than 0.2 s to compile'
    )


def test_a_refused_grammar_is_not_compiled_again(monkeypatch):
    compiler = GrammarCompiler(TOKENIZER, vocab_size=V)
    for _ in range(2):
        with pytest.raises(RequestError, match="Unimplemented keys"):
            compiler.new_state(SamplingParams(json_schema={"not": {}}), [EOS])
        monkeypatch.setattr(grammar_module, "_grammar_text", None)  # would fail if called


def test_as_many_choices_as_there_are_may_share_a_beginning():
    choices = tuple(f"abc {number}" for number in range(10_000))
    state = GrammarCompiler(TOKENIZER, vocab_size=V).new_state(SamplingParams(choices=choices), [EOS])
    ids = TOKENIZER.encode("abc 9999")
    assert state.advance(ids) == len(ids)
    assert state.error is None
    assert [token_id for token_id in range(V) if allows(state.mask, token_id)] == [EOS]


@pytest.mark.parametrize(
    ("schema", "warning"),
    [
        (
            {"type": "string", "maxLenght": 3},
            "json_schema has unknown keywords, which have no effect: maxLenght",
        ),
        (
            {"type": "string", "not": {}, "x-guidance": {"lenient": True}},
            'json_schema is obeyed in part: Unimplemented keys: ["not"]: {"type": "string"',
        ),
        (
            {"oneOf": [{"const": 1}, {"type": "integer"}], "x-guidance": {"coerce_one_of": True}},
            "json_schema is obeyed in part: oneOf not fully supported, falling back to anyOf",
        ),
    ],
)
def test_what_has_no_effect_in_a_schema_is_warned_of(schema, warning, caplog):
    GrammarCompiler(TOKENIZER, vocab_size=V).new_state(SamplingParams(json_schema=schema), [EOS])
    assert warning in caplog.text


def test_an_engine_without_a_tokenizer_says_what_to_pass():
    assert "pass Engine(model, config, tokenizer=...)" in refusal(with_tokenizer=None, regex="a")


def test_a_tokenizer_that_is_no_fast_one_is_named():
    error = refusal(with_tokenizer=ByteTokenizer.of_letters(V), regex="a")
    assert "fast tokenizer" in error
    assert "ByteTokenizer" in error


def test_a_tokenizer_larger_than_the_model_is_refused():
    model = small_orthrus(vocab_size=97, eos_token_id=50)
    assert "a model of 97 tokens: vocab size too small; 97 vs 109" in refusal(model=model, regex="a")


def test_a_tokenizer_without_special_tokens_is_refused():
    assert "without, no text can end" in refusal(with_tokenizer=fast_tokenizer(special=()), regex="a")


def test_without_the_library_the_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    assert "package llguidance, which is not installed: pip install" in refusal(regex="a")


def test_a_text_that_no_token_can_continue_ends_with_an_error_in_both_modes():
    """The vocabulary has no bytes of ü."""
    outcomes = []
    for mode in ("autoregressive", "consensus"):
        engine = Engine(grammar_model(), CONFIG.model_copy(update={"mode": mode}), TOKENIZER)
        [completion] = engine.generate([[1, 2]], SamplingParams(choices=("aaü",)))
        outcomes.append((completion.token_ids, completion.finish_reason, completion.error))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0] == (
        [65, 65],
        "error",
        "choices: the grammar is stuck after 2 tokens: no token of the vocabulary continues it",
    )


def test_a_grammar_is_compiled_once_for_all_its_requests(monkeypatch):
    compiled = []
    real = grammar_module._grammar_text
    monkeypatch.setattr(
        grammar_module, "_grammar_text", lambda *asked: (compiled.append(asked), real(*asked))[1]
    )
    engine = Engine(grammar_model(), CONFIG, TOKENIZER)
    engine.generate([[1], [2], [3]], SamplingParams(regex="a{2}"))
    engine.generate([[1], [2]], [SamplingParams(regex="a{2}"), SamplingParams(regex="b{2}")])
    assert [value for _, _, value in compiled] == ["a{2}", "b{2}"]


def test_no_more_grammars_are_kept_than_the_bound(monkeypatch):
    monkeypatch.setattr(grammar_module, "CACHED_GRAMMARS", 2)
    compiler = GrammarCompiler(TOKENIZER, vocab_size=V)
    for regex in ("a", "b", "a", "c"):
        compiler.new_state(SamplingParams(regex=regex), [EOS])
    assert [value for _, value in compiler._grammars] == ["a", "c"]


@pytest.mark.parametrize("style", ["qwen", "llama"])
def test_texts_of_both_kinds_of_tokenizers_obey(style):
    own = fast_tokenizer(["ab", '{"', '": '], style=style)
    model = small_orthrus(vocab_size=400, eos_token_id=own.eos_token_id, mask_token_id=own.eos_token_id + 1)
    params = SamplingParams(json_schema=PERSON, max_new_tokens=120, temperature=1.0)
    completions = Engine(model, EngineConfig(max_context=128), own).generate([[5]], params, num_samples=6)
    finished = [c for c in completions if c.finish_reason == "stop"]
    assert finished
    assert all(obeys(own.decode(c.token_ids[:-1]), params) for c in finished)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"regex": "a", "choices": ("a",)}, "must have at most one of json_schema, regex, choices"),
        ({"json_schema": {}, "regex": ""}, "got json_schema and regex"),
        ({"regex": "a", "ignore_eos": True}, "must have ignore_eos: false with regex"),
        ({"choices": ("a", "")}, "must hold no empty string"),
        ({"json_schema": "{"}, "which is no JSON"),
        ({"json_schema": "[1]"}, "must be a JSON object"),
    ],
)
def test_params_refuse_what_makes_no_sense(fields, message):
    with pytest.raises(ValidationError, match=message):
        SamplingParams(**fields)


def test_a_schema_is_kept_as_text_with_its_order():
    params = SamplingParams(json_schema={"properties": {"b": {}, "a": {}}})
    assert params.json_schema == '{"properties": {"b": {}, "a": {}}}'
    assert SamplingParams(json_schema=params.json_schema).grammar == ("json_schema", params.json_schema)
    assert list(json.loads(params.json_schema)["properties"]) == ["b", "a"]
