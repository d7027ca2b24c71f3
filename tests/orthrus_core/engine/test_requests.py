"""What a request may ask for - samples, stop strings, log-probabilities - in every traffic the same."""

import random

import pytest
import torch

from orthrus_core import ConfigError, Engine, EngineConfig, Request, SamplingParams
from orthrus_core.models.readout import read_out
from tests.drafts import mostly_right
from tests.plain_ar import alone, logits_before, numbers_of, outcomes
from tests.seeds import seeds
from tests.small_models import small_orthrus
from tests.tokenizers import ByteTokenizer

V = 97
LETTERS = ByteTokenizer.of_letters(V)


def random_params(source: random.Random, texts: list[str]) -> SamplingParams:
    """Greedy or sampled, with or without stop strings, some of which occur."""
    text = source.choice(texts)
    start = source.randrange(len(text) - 3)
    stop = [(), (text[start : start + source.randint(1, 3)],), ("!!!!!", text[start : start + 2])]
    sampled = {"temperature": source.choice([0.7, 1.2]), "top_k": source.choice([0, 20]), "seed": 3}
    return SamplingParams(
        max_new_tokens=30,
        stop=source.choice(stop),
        logprobs=source.choice([True, False, 1, 4]),
        **(source.choice([{}, sampled])),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", seeds(3))
@pytest.mark.parametrize("num_pages", [None, 26], ids=["room", "preemption"])
def test_every_request_gets_the_outcome_of_ar_alone(dtype, seed, num_pages):
    source = random.Random(seed)
    model = small_orthrus(seed=seed, dtype=dtype, sameness=0.2)
    prompts = [[source.randrange(V) for _ in range(source.randint(10, 40))] for _ in range(3)]
    texts = [LETTERS.decode(c.token_ids) for c in alone(model, [Request(p) for p in prompts])]
    requests = [
        Request(prompt, params, sample=sample)
        for prompt in prompts
        for params in [random_params(source, texts)]
        for sample in range(3)
    ]
    references = alone(model, requests, LETTERS, page_size=4)
    config = EngineConfig(
        token_budget=32, max_sequences=5, max_context=80, num_pages=num_pages, page_size=4, self_check=False
    )
    engine = Engine(model, config, LETTERS, draft=mostly_right(requests, references, 0.5, source))
    completions = engine.run(requests)
    assert outcomes(completions) == outcomes(references)
    assert sum(c.stats.accepted for c in completions) > 0
    if num_pages:
        assert engine.report()["preemptions"] > 0


def test_samples_of_a_prompt_share_its_pages_and_prefill_it_once():
    model = small_orthrus()
    [prompt] = [[n % 90 for n in range(100)]]
    params = SamplingParams(max_new_tokens=6, temperature=1.0)
    config = EngineConfig(max_sequences=8, max_context=128, page_size=16, self_check=False)
    engine = Engine(model, config)
    pool = engine.runner.tables.pool
    ids = [engine.submit(Request(prompt, params, sample=sample)) for sample in range(8)]
    done, most_pages, prefill_rows = {}, 0, count_prefill_rows(engine)
    while engine.has_work:
        done.update((completion.request_id, completion) for completion in engine.step())
        most_pages = max(most_pages, sum(count > 0 for count in pool.references))
    # 6 full pages of the prompt once; each sample's seventh page holds 4 prompt tokens and its own
    assert most_pages == 6 + 8
    assert engine.report()["prefix_tokens"] == 7 * 96
    assert sum(prefill_rows) == 99 + 7 * 3  # the last prompt token is the anchor
    texts = [done[request_id].token_ids for request_id in ids]
    expected = alone(model, [Request(prompt, params, sample=sample) for sample in range(8)])
    assert texts == [completion.token_ids for completion in expected]
    assert len(set(map(tuple, texts))) > 4


def count_prefill_rows(engine: Engine) -> list[int]:
    """Return a list that gets the prefill rows of every step from now on."""
    counts: list[int] = []
    plan = engine.scheduler.plan

    def counting():
        step = plan()
        counts.append(sum(work.num_prefill for work in step.works))
        return step

    engine.scheduler.plan = counting
    return counts


def test_another_prompt_does_not_wait_for_samples_that_do():
    engine = Engine(small_orthrus(), EngineConfig(max_sequences=3, max_context=256, self_check=False))
    long_prompt = [n % 90 for n in range(200)]
    params = SamplingParams(max_new_tokens=4)
    for prompt in (long_prompt, long_prompt, [1, 2]):
        engine.submit(Request(prompt, params))
    engine.step()
    assert sorted(sequence.num_prompt for sequence in engine.scheduler.running) == [2, 200]
    assert sorted(len(c.token_ids) for _ in range(40) for c in engine.step()) == [4, 4, 4]


def test_generate_gives_the_samples_of_each_prompt_in_order():
    model = small_orthrus()
    params = SamplingParams(max_new_tokens=8, temperature=1.0)
    engine = Engine(model, EngineConfig(max_context=64, self_check=False))
    completions = engine.generate([[1, 2], [3]], params, num_samples=3)
    requests = [Request(prompt, params, sample=sample) for prompt in ([1, 2], [3]) for sample in range(3)]
    assert [c.token_ids for c in completions] == [c.token_ids for c in alone(model, requests)]


def test_less_than_one_sample_is_refused():
    engine = Engine(small_orthrus(), EngineConfig(max_context=64, self_check=False))
    with pytest.raises(ConfigError, match="num_samples must be a whole number >= 1, got 0"):
        engine.generate([[1]], num_samples=0)


def test_logprobs_are_given_per_token_when_asked_for_and_sum_to_the_counter():
    engine = Engine(small_orthrus(), EngineConfig(max_context=64, self_check=False))
    params = SamplingParams(max_new_tokens=12, temperature=1.5, top_k=30, logprobs=True)
    asked, not_asked = engine.generate([[5, 6, 7]] * 2, [params, SamplingParams(max_new_tokens=12)])
    logprobs, _ = numbers_of(small_orthrus(), [5, 6, 7], asked.token_ids)  # neither tempered nor filtered
    assert asked.logprobs == pytest.approx(logprobs, abs=1e-4)
    assert sum(asked.logprobs) == pytest.approx(asked.stats.logprob)
    assert not_asked.logprobs is None


def test_the_likeliest_tokens_are_those_of_the_logits_and_the_first_is_the_greedy_choice():
    engine = Engine(small_orthrus(), EngineConfig(max_context=64, self_check=False))
    [completion] = engine.generate([[5, 6, 7]], SamplingParams(max_new_tokens=12, logprobs=5))
    expected = logits_before(small_orthrus(), [5, 6, 7], completion.token_ids).log_softmax(-1).topk(5)
    assert [[token_id for token_id, _ in place] for place in completion.top_logprobs] == (
        expected.indices.tolist()
    )
    given = torch.tensor([[logprob for _, logprob in place] for place in completion.top_logprobs])
    assert torch.allclose(given, expected.values, atol=1e-4)
    firsts = [place[0] for place in completion.top_logprobs]
    assert firsts == list(zip(completion.token_ids, completion.logprobs, strict=True))


def test_equal_logits_are_told_of_by_ascending_id():
    logits = torch.tensor([[0.0, 2.0, -1.0, 2.0, 0.0, -0.5]])
    ids, logprobs = read_out(logits.bfloat16()).likeliest(torch.tensor([0]), 9)
    assert ids.tolist() == [[1, 3, 0, 4, 5, 2]]
    assert torch.allclose(logprobs, logits.log_softmax(-1).gather(1, ids))


def test_an_ignored_eos_leaves_stop_ids_in_force():
    model = small_orthrus()
    engine = Engine(model, EngineConfig(max_context=64, self_check=False))
    free = engine.generate([[1, 2, 3]], SamplingParams(max_new_tokens=9))[0].token_ids
    params = SamplingParams(
        max_new_tokens=9, eos_token_id=free[2], ignore_eos=True, stop_token_ids=(free[5],)
    )
    assert engine.generate([[1, 2, 3]], params)[0].token_ids == free[: free.index(free[5]) + 1]
