"""Looked up drafts change no bit of what plain AR decoding says, whatever a request asks for."""

import random

import pytest
import torch

from orthrus_core import ConfigError, Engine, EngineConfig, Request, SamplingParams
from tests.grammars import GRAMMARS, grammar_model, tokenizer
from tests.plain_ar import alone, outcomes
from tests.small_models import small_orthrus

TOKENIZER = tokenizer()
WAYS = [
    {},
    {"temperature": 0.7, "seed": 3},
    {"temperature": 1.2, "top_k": 20, "top_p": 0.9, "seed": 5},
    GRAMMARS[0],
    {"temperature": 0.9, **GRAMMARS[1]},
    {"stop": ("ab", "c")},
]


def repetitive_prompts(source: random.Random, count: int) -> list[list[int]]:
    """Prompts whose text repeats itself and that of the other ones."""
    phrases = [[source.randrange(95) for _ in range(source.randint(2, 9))] for _ in range(4)]
    return [sum(source.choices(phrases, k=source.randint(3, 6)), []) for _ in range(count)]


def plain_model(**options):
    """A model without a head."""
    model = small_orthrus(**options)
    model.config.has_head = False
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("has_head", [True, False])
@pytest.mark.parametrize("num_pages", [None, 7], ids=["room", "preemption"])
def test_every_request_gets_the_outcome_of_ar_alone(dtype, has_head, num_pages):
    source = random.Random(f"{dtype} {has_head} {num_pages}")
    model = grammar_model(source.randrange(9), dtype=dtype, sameness=0.3)
    model.config.has_head = has_head
    requests = [
        Request(prompt, SamplingParams(max_new_tokens=36, logprobs=True, **way), sample=sample)
        for prompt, way in zip(repetitive_prompts(source, len(WAYS)), WAYS, strict=True)
        for sample in range(2)
    ]
    references = alone(model, requests, TOKENIZER)
    source.shuffle(order := list(range(len(requests))))
    config = EngineConfig(
        token_budget=32,
        max_sequences=6,
        max_context=96,
        num_pages=num_pages,
        lookup_tokens=source.choice([1_000_000, 60]),
        self_check=False,
    )
    engine = Engine(model, config, TOKENIZER)
    completions = engine.run([requests[index] for index in order])
    assert outcomes(completions) == outcomes(references[index] for index in order)
    report = engine.report()
    assert 0 < report["lookup_accepted"] <= report["lookup_drafted"]
    assert sum(c.stats.lookup_drafted for c in completions) == report["lookup_drafted"]
    assert has_head or report["draft_forwards"] == 0
    if num_pages:
        assert report["preemptions"] > 0


def test_text_without_a_head_takes_fewer_forwards_than_tokens():
    model = plain_model(sameness=1.0)  # nearly constant text
    engine = Engine(model, EngineConfig(max_context=128, self_check=False))
    [completion] = engine.generate([[5, 6, 7]], SamplingParams(max_new_tokens=60))
    assert completion.stats.tokens_per_forward > 2
    assert completion.stats.forwards == completion.stats.steps


def test_a_request_without_drafts_is_not_looked_up_for():
    model = plain_model(sameness=1.0)
    engine = Engine(model, EngineConfig(max_context=128, self_check=False))
    [completion] = engine.run([Request([5, 6, 7], SamplingParams(max_new_tokens=30), drafts=False)])
    assert (completion.stats.drafted, completion.stats.steps) == (0, 29)


def test_forgotten_texts_are_not_drafted_again():
    model = plain_model(seed=3)
    engine = Engine(model, EngineConfig(max_context=128, self_check=False))
    params = SamplingParams(max_new_tokens=40)
    [first], [again] = (engine.generate([[5, 6, 7]], params) for _ in range(2))
    assert again.stats.steps < 0.5 * first.stats.steps
    engine.forget_prompts()
    [anew] = engine.generate([[5, 6, 7]], params)
    assert anew.stats.steps > 0.8 * first.stats.steps


def test_without_lookup_a_plain_backbone_is_refused():
    with pytest.raises(ConfigError, match="needs a diffusion head or lookup_tokens > 0"):
        Engine(plain_model(), EngineConfig(max_context=64, lookup_tokens=0, self_check=False))


def test_lookup_can_be_switched_off():
    engine = Engine(
        small_orthrus(sameness=1.0), EngineConfig(max_context=64, lookup_tokens=0, self_check=False)
    )
    engine.generate([[5, 6, 7]], SamplingParams(max_new_tokens=30))
    assert engine.report()["lookup_drafted"] == 0
