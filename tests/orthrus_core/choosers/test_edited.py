"""Edited logits through the engine: the text of AR decoding with them, bit for bit, in every traffic."""

import random

import pytest
import torch
from transformers import GenerationConfig, LogitsProcessorList

from orthrus_core import Engine, EngineConfig, Request, SamplingParams
from orthrus_core.choosers.choose import chooser_by
from orthrus_core.choosers.edited import Edited
from tests.drafts import mostly_right
from tests.grammars import EOS, GRAMMARS, V, grammar_model, tokenizer
from tests.plain_ar import alone, numbers_of, outcomes
from tests.seeds import seeds

TOKENIZER = tokenizer()


def random_params(source: random.Random, *, with_grammars: bool) -> SamplingParams:
    """Greedy or sampled, with any mix of edits, none among them, or a grammar and penalties."""
    fields = {"max_new_tokens": source.choice([8, 30, 60]), "logprobs": source.choice([True, 3])}
    if source.random() < 0.6:
        fields |= {"temperature": source.choice([0.5, 1.0, 1.5]), "seed": source.choice([0, 2**63 - 1])}
        fields |= {"top_k": source.choice([0, 0, 20]), "top_p": source.choice([1.0, 0.8])}
    penalties = {
        "repetition_penalty": source.choice([0.8, 1.2, 2.0]),
        "presence_penalty": source.choice([-0.5, 1.0]),
        "frequency_penalty": source.choice([-0.2, 0.4]),
        "logit_bias": {source.randrange(V): source.uniform(-6, 6) for _ in range(4)},
    }
    rules = {
        "min_tokens": source.choice([4, 8]),
        "bad_words": (
            "ab",
            *(tuple(source.choices(range(90), k=source.randint(1, 2))) for _ in range(20)),
        ),
        "allowed_token_ids": (EOS, *source.sample(range(95), 60)),
    }
    if with_grammars and source.random() < 0.25:
        fields |= source.choice(GRAMMARS)
    else:
        fields |= {name: rules[name] for name in rules if source.random() < 0.4}
    return SamplingParams(**fields, **{name: penalties[name] for name in penalties if source.random() < 0.4})


def random_requests(source: random.Random, count: int, *, with_grammars: bool) -> list[Request]:
    return [
        Request(
            [source.randrange(95) for _ in range(source.randint(1, 40))],
            random_params(source, with_grammars=with_grammars),
            sample=source.choice([0, 1]),
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", seeds(4))
@pytest.mark.parametrize("drafts", ["own", "oracle"])
def test_consensus_equals_ar_bit_for_bit_with_any_mix_of_edits(dtype, seed, drafts):
    source = random.Random(seed)
    model = grammar_model(seed=seed, dtype=dtype)
    token_budget = source.choice([16, 32, 64])
    requests = random_requests(source, 10, with_grammars=drafts == "own")  # which want drafts that obey
    references = alone(model, requests, TOKENIZER, token_budget=token_budget)
    engine = Engine(
        model,
        EngineConfig(
            token_budget=token_budget,
            block_size=source.choice([2, 5, 8]),
            block_policy="fixed",
            max_sequences=source.choice([3, 8]),
            max_context=128,
            num_pages=source.choice([None, 14]),
            self_check=False,
        ),
        TOKENIZER,
        draft=mostly_right(requests, references, 0.7, source) if drafts == "oracle" else None,
    )
    completions = engine.run(requests)
    assert outcomes(completions) == outcomes(references)
    assert sum(c.stats.accepted for c in completions) > 0


@torch.inference_mode()
def by_transformers(model, prompt: list[int], options: dict, count: int) -> list[int]:
    """Greedy decoding, one whole forward per token, by the processors that transformers makes of options."""
    config = GenerationConfig(**options, eos_token_id=EOS, max_new_tokens=count)
    model._prepare_special_tokens(config, device=torch.device("cpu"))
    processors: LogitsProcessorList = model._get_logits_processor(
        config, input_ids_seq_length=len(prompt), device=torch.device("cpu")
    )
    ids = torch.tensor([prompt])
    while ids.shape[1] < len(prompt) + count and ids[0, -1] != EOS:
        logits = model(input_ids=ids, use_cache=False).logits[:, -1].float()
        ids = torch.cat([ids, processors(ids, logits).argmax(-1, keepdim=True)], dim=1)
    return ids[0, len(prompt) :].tolist()


@pytest.mark.parametrize("seed", seeds(4))
def test_greedy_text_is_that_of_transformers_processors(seed):
    source = random.Random(seed)
    model, prompt = grammar_model(seed=seed), [source.randrange(95) for _ in range(12)]
    bias = {source.randrange(95): source.uniform(-5, 5) for _ in range(3)} | {EOS: 4.0}
    bad = [source.choices(range(95), k=length) for length in (1, 1, 2)]
    theirs = {
        "repetition_penalty": 1.3,
        "min_new_tokens": 9,
        "bad_words_ids": bad,
        "sequence_bias": {(token_id,): value for token_id, value in bias.items()},
    }
    params = SamplingParams(
        max_new_tokens=30,
        repetition_penalty=1.3,
        min_tokens=9,
        bad_words=tuple(map(tuple, bad)),
        logit_bias=bias,
    )
    engine = Engine(model, EngineConfig(max_context=64, self_check=False))
    [completion] = engine.generate([prompt], params)
    assert completion.token_ids == by_transformers(model, prompt, theirs, 30)
    assert completion.token_ids != by_transformers(model, prompt, {}, 30)


def test_log_probabilities_and_gaps_are_those_before_edits():
    model = grammar_model()
    engine = Engine(model, EngineConfig(max_context=64, self_check=False))
    params = SamplingParams(max_new_tokens=9, logit_bias={7: 50.0}, logprobs=True)
    [completion] = engine.generate([[1, 2, 3]], params)
    assert completion.token_ids == [7] * 9
    logprobs, gap = numbers_of(model, [1, 2, 3], completion.token_ids)
    assert completion.logprobs == pytest.approx(logprobs, abs=1e-4)
    assert completion.stats.min_logit_gap == pytest.approx(gap, abs=1e-4)


def test_a_step_without_edits_takes_another_chooser():
    engine = Engine(grammar_model(), EngineConfig(max_context=64, self_check=False))
    made, choose = [], chooser_by("coupled")
    engine._chooser = lambda works: made.append(choose(works)) or made[-1]
    engine.generate([[1, 2]], SamplingParams(max_new_tokens=4))
    assert not any(isinstance(chooser, Edited) for chooser in made)
    engine.generate([[1, 2]], SamplingParams(max_new_tokens=4, min_tokens=2))
    assert isinstance(made[-1], Edited)


def test_one_request_that_cannot_be_edited_leaves_the_others_alone():
    engine = Engine(grammar_model(), EngineConfig(max_context=64, self_check=False))
    bad, fine = engine.generate(
        [[1], [1]], [SamplingParams(logit_bias={V: 1.0}), SamplingParams(max_new_tokens=3, min_tokens=3)]
    )
    assert bad.error == f"logit_bias has ids [{V}], the vocabulary has ids 0 to {V - 1}"
    assert len(fine.token_ids) == 3
