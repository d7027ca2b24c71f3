"""Log-probabilities of prompts: those of one whole forward, in every traffic the same bits."""

import random
from array import array

import pytest
import torch

from orthrus_core import Engine, EngineConfig, Request, SamplingParams
from orthrus_core.engine.sequence import Sequence
from tests.plain_ar import alone, outcomes
from tests.seeds import seeds
from tests.small_models import small_orthrus

V = 97
SCORE = SamplingParams(max_new_tokens=0, prompt_logprobs=True)


def random_requests(source: random.Random, count: int) -> list[Request]:
    beginning = [source.randrange(V) for _ in range(40)]
    return [
        Request(
            beginning[: source.choice([0, 40])] + [source.randrange(V) for _ in range(source.randint(1, 60))],
            source.choice(
                [
                    SCORE,
                    SamplingParams(max_new_tokens=30),
                    SamplingParams(max_new_tokens=9, prompt_logprobs=True, temperature=1.0, logprobs=2),
                    SamplingParams(max_new_tokens=9, prompt_logprobs=True, repetition_penalty=1.5),
                ]
            ),
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", seeds(4))
@pytest.mark.parametrize("num_pages", [None, 34], ids=["room", "preemption"])
def test_scores_and_text_have_the_same_bits_alone_and_in_traffic(dtype, seed, num_pages):
    source = random.Random(seed)
    model = small_orthrus(seed=seed, dtype=dtype, sameness=0.2)
    requests = random_requests(source, 12)
    sizes = {"token_budget": 32, "max_context": 128, "page_size": 4}
    references = alone(model, requests, **sizes)
    engine = Engine(model, EngineConfig(max_sequences=5, num_pages=num_pages, self_check=False, **sizes))
    assert outcomes(engine.run(requests)) == outcomes(references)


@pytest.mark.parametrize("length", [1, 2, 33, 90])
def test_scores_are_those_of_one_whole_forward(length):
    model, source = small_orthrus(), random.Random(length)
    prompt = [source.randrange(V) for _ in range(length)]
    config = EngineConfig(token_budget=16, max_sequences=2, max_context=128, self_check=False)
    [completion] = Engine(model, config).generate([prompt], SCORE)
    logprobs = model(torch.tensor([prompt])).logits.detach()[0].log_softmax(-1)
    expected = logprobs[:-1].gather(1, torch.tensor(prompt)[1:, None])[:, 0].tolist()
    assert completion.prompt_logprobs[0] is None
    assert completion.prompt_logprobs[1:] == pytest.approx(expected, abs=1e-4)
    assert (completion.token_ids, completion.finish_reason, completion.error) == ([], "length", None)


def test_a_prompt_that_was_prefilled_before_is_scored_all_the_same():
    engine = Engine(small_orthrus(), EngineConfig(max_context=128, page_size=4, self_check=False))
    prompt = list(range(50))
    engine.generate([prompt], SamplingParams(max_new_tokens=2))
    again, anew = engine.generate([prompt] * 2, SCORE)
    assert len(again.prompt_logprobs) == 50
    assert again.prompt_logprobs == anew.prompt_logprobs


def test_a_preempted_prompt_keeps_the_scores_that_it_has():
    sequence = Sequence(0, [1, 2, 3, 4], SCORE, frozenset(), None)
    sequence.score(0, array("f", [-1.0, -2.0]))
    sequence.score(0, array("f", [-1.0, -2.0, -3.0]))  # prefilled again from the start
    sequence.score(3, array("f", [-9.0]))  # the row of the last prompt token, after tokens were emitted
    assert sequence.complete("length").prompt_logprobs == [None, -1.0, -2.0, -3.0]


def test_scores_are_given_only_when_asked_for():
    engine = Engine(small_orthrus(), EngineConfig(max_context=64, self_check=False))
    assert engine.generate([[1, 2]], SamplingParams(max_new_tokens=2))[0].prompt_logprobs is None
