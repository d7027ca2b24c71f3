"""Grammars for tests, what obeys them, and a slow decoder that masks by asking for every token."""

import json
import re
from typing import Any

import jsonschema
import llguidance
import torch

from orthrus_core import SamplingParams
from orthrus_core.choosers.filters import filter_logits
from orthrus_core.choosers.noise import gumbel_noise
from tests.filters import filters_of
from tests.small_models import small_orthrus
from tests.tokenizers import fast_tokenizer

PIECES = ('{"', '": ', '", "', '"}', "true", "false", "null", "abc", "  ", "ab", "12", "é")
V = 128
EOS, MASK = 95 + len(PIECES), 96 + len(PIECES)

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["ab", "abc", "b"]}, "maxItems": 3},
        "ok": {"type": ["boolean", "null"]},
    },
    "required": ["name", "age", "tags", "ok"],
    "additionalProperties": False,
}
ONE_OF = {"anyOf": [{"const": "abc"}, {"type": "array", "items": {"type": "boolean"}, "maxItems": 4}]}
GRAMMARS: tuple[dict[str, Any], ...] = (
    {"json_schema": PERSON},
    {"json_schema": ONE_OF},
    {"regex": r"(abc|[a-f]{2,5}) ?é?[0-9]{1,12}(\.[0-9]{2})?"},
    {"regex": r"(ab*|c)+[.!]|"},
    {"choices": ("ab", "abc", "abc 12", "no", "not é", "-")},
)


def tokenizer():
    """Of `grammar_model`."""
    return fast_tokenizer(PIECES)


def grammar_model(seed: int = 0, **fields):
    """A random model with the tokenizer's EOS and mask token, its vocabulary larger than the tokenizer's."""
    options = {"sameness": 0.2, "block_size": 8} | fields
    return small_orthrus(seed=seed, vocab_size=V, eos_token_id=EOS, mask_token_id=MASK, **options)


def obeys(text: str, params: SamplingParams) -> bool:
    """Whether a text is what its request asked for, by other means than the engine's library."""
    if params.regex is not None:
        return re.fullmatch(params.regex, text) is not None
    if params.choices:
        return text in params.choices
    try:
        jsonschema.validate(json.loads(text), json.loads(params.json_schema))
    except (ValueError, jsonschema.ValidationError):
        return False
    return True


def allowed_tokens(params: SamplingParams, emitted: list[int]) -> list[int]:
    """The tokens that may come next, by asking a new matcher about each of the vocabulary."""
    ll_tokenizer = llguidance.LLTokenizer(tokenizer().backend_tokenizer.to_str(), n_vocab=V, eos_token=EOS)
    if params.choices:
        text = llguidance.grammar_from("choice", json.dumps(params.choices))
    elif params.regex is not None:
        text = llguidance.LLMatcher.grammar_from_regex(params.regex)
    else:
        space = {
            "whitespace_pattern": r" |\r?\n[ \t]{0,40}",
            "json_allow_general_unicode_escapes": True,
        }
        text = llguidance.LLMatcher.grammar_from_json_schema(params.json_schema, defaults=space)
    matcher = llguidance.LLMatcher(ll_tokenizer, text, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    assert matcher.consume_tokens(emitted)
    allowed = [token_id for token_id in range(EOS) if matcher.validate_tokens([token_id]) == 1]
    return allowed + [EOS] * matcher.is_accepting()


@torch.inference_mode()
def slow_decoding(model, prompt: list[int], params: SamplingParams, sample: int = 0) -> list[int]:
    """Plain AR decoding of one prompt, one whole forward per token, under its grammar."""
    emitted: list[int] = []
    for _ in range(params.max_new_tokens):
        logits = model(input_ids=torch.tensor([prompt + emitted]), use_cache=False).logits[0, -1:].float()
        allowed = allowed_tokens(params, emitted)
        scores = torch.full_like(logits, float("-inf"))
        scores[0, allowed] = logits[0, allowed]
        if params.temperature:
            position = torch.tensor([len(prompt) + len(emitted)])
            noise = gumbel_noise(torch.tensor([params.seed]), torch.tensor([sample]), position, V)
            scores = filter_logits(scores, filters_of([params])) + noise
        emitted.append(int(scores.argmax()))
        if emitted[-1] == EOS:
            break
    return emitted
