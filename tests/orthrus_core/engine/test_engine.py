"""The engine over real (small, random) models: exact in every traffic, clear about requests it cannot run."""

import random

import pytest
import torch

from orthrus_core import ConfigError, Engine, EngineConfig, Request, SamplingParams
from tests.drafts import mostly_right
from tests.plain_ar import alone, numbers_of, outcomes, run_with_arrivals
from tests.seeds import seeds
from tests.small_models import small_backbone, small_orthrus

V = 97
DTYPES = [torch.float32, torch.bfloat16]


def random_prompts(seed: int, count: int, longest: int) -> list[list[int]]:
    source = random.Random(seed)
    lengths = [source.randint(1, longest) for _ in range(count)]
    return [[source.randrange(V) for _ in range(length)] for length in lengths]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", seeds(6))
def test_consensus_equals_ar_bit_for_bit_in_random_traffic(dtype, seed):
    source = random.Random(seed)
    token_budget = source.choice([16, 24, 64])
    model = small_orthrus(seed=seed, dtype=dtype, block_size=16, head_dim=source.choice([12, 16]))
    prompts = random_prompts(seed, source.choice([1, 2, 5, 9, 16]), longest=source.choice([20, 120, 500]))
    requests = [Request(prompt, SamplingParams(max_new_tokens=24)) for prompt in prompts]
    references = alone(model, requests, token_budget=token_budget, max_context=640)
    drafts = mostly_right(requests, references, source.choice([0.5, 0.9]), random.Random(seed))
    pages = source.choice([None, 42])
    engine = Engine(
        model,
        EngineConfig(
            token_budget=token_budget,
            block_size=source.choice([2, 5, 8, 16]),
            block_policy="fixed",
            max_sequences=min(source.choice([1, 3, 8, 16]), token_budget),
            max_context=640,
            num_pages=pages,
            self_check=False,
        ),
        draft=drafts,
    )
    completions = run_with_arrivals(engine, requests, source)
    assert outcomes(completions) == outcomes(references)
    assert sum(c.stats.accepted for c in completions) > 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_pool_too_small_for_all_preempts_and_keeps_the_bits(dtype):
    model = small_orthrus(dtype=dtype)
    params = SamplingParams(max_new_tokens=40)
    requests = [Request(prompt, params) for prompt in random_prompts(1, 6, longest=30)]
    references = alone(model, requests, token_budget=32, max_context=80)
    config = EngineConfig(token_budget=32, max_sequences=6, max_context=80, num_pages=7, self_check=False)
    engine = Engine(model, config, draft=mostly_right(requests, references, 0.8, random.Random(0)))
    assert outcomes(engine.run(requests)) == outcomes(references)
    assert engine.report()["preemptions"] > 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_shared_beginning_keeps_the_bits(dtype):
    model = small_orthrus(dtype=dtype)
    [beginning] = random_prompts(3, 1, longest=90)
    params = SamplingParams(max_new_tokens=12)
    requests = [Request(beginning + tail, params) for tail in random_prompts(4, 5, longest=20)]
    engine = Engine(model, EngineConfig(max_sequences=2, max_context=160, self_check=False))
    references = alone(model, requests, token_budget=64, max_context=160)
    assert outcomes(engine.run(requests)) == outcomes(references)
    assert engine.report()["prefix_tokens"] > 0


def test_fp32_greedy_equals_transformers_generate_on_the_backbone():
    backbone = small_backbone(seed=2)
    model = small_orthrus(seed=2)
    prompts = random_prompts(5, 8, longest=60)
    completions = Engine(model, EngineConfig(max_context=128)).generate(
        prompts, SamplingParams(max_new_tokens=30)
    )
    for prompt, completion in zip(prompts, completions, strict=True):
        ids = torch.tensor([prompt])
        out = backbone.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=30, do_sample=False, pad_token_id=0
        )
        assert completion.token_ids == out[0, len(prompt) :].tolist()


def test_logprob_and_gap_are_those_of_the_ar_view():
    model = small_orthrus()
    [completion] = Engine(model, EngineConfig(max_context=64)).generate(
        [[5, 6, 7]], SamplingParams(max_new_tokens=9)
    )
    logprobs, gap = numbers_of(model, [5, 6, 7], completion.token_ids)
    assert completion.stats.logprob == pytest.approx(sum(logprobs), abs=1e-4)
    assert completion.stats.min_logit_gap == pytest.approx(gap, abs=1e-4)


def test_bad_requests_come_back_as_errors_and_the_others_go_on():
    engine = Engine(small_orthrus(), EngineConfig(max_context=32, self_check=False))
    prompts = [[1, 2], [], [3] * 32, [4, V], [-1], [5, 6]]
    completions = engine.generate(prompts, SamplingParams(max_new_tokens=3))
    assert [c.finish_reason for c in completions] == ["length", "error", "error", "error", "error", "length"]
    assert [c.error for c in completions[1:5]] == [
        "prompt is empty: it needs at least one token",
        "prompt has 32 tokens, max_context is 32",
        "prompt token 1 is 97, the vocabulary has ids 0 to 96",
        "prompt token 0 is -1, the vocabulary has ids 0 to 96",
    ]
    assert [len(c.token_ids) for c in completions] == [3, 0, 0, 0, 0, 3]
    assert not engine.has_work


def test_the_context_limit_ends_a_completion():
    engine = Engine(small_orthrus(), EngineConfig(max_context=20, self_check=False))
    [completion] = engine.generate([[1] * 15], SamplingParams(max_new_tokens=99))
    assert (len(completion.token_ids), completion.finish_reason) == (5, "context")


def test_any_of_several_eos_ids_ends_a_completion_where_ar_would_have():
    model = small_orthrus()
    engine = Engine(model, EngineConfig(max_context=64, self_check=False))
    free = engine.generate([[1, 2, 3]], SamplingParams(max_new_tokens=20))[0].token_ids
    later, sooner = free[9], free[4]
    [completion] = engine.generate(
        [[1, 2, 3]], SamplingParams(max_new_tokens=20, eos_token_id=(later, sooner), stop_token_ids=(V - 1,))
    )
    first = min(free.index(later), free.index(sooner))
    assert completion.token_ids == free[: first + 1]
    assert completion.finish_reason == "stop"


def test_the_models_own_eos_is_the_default_and_can_be_ignored():
    model = small_orthrus()
    engine = Engine(model, EngineConfig(max_context=64, self_check=False))
    free = engine.generate([[1, 2, 3]], SamplingParams(max_new_tokens=8))[0].token_ids
    model.generation_config.eos_token_id = [free[3]]
    engine = Engine(model, EngineConfig(max_context=64, self_check=False))
    stopped, ignored = engine.generate(
        [[1, 2, 3]] * 2, [SamplingParams(max_new_tokens=8), SamplingParams(max_new_tokens=8, ignore_eos=True)]
    )
    assert stopped.token_ids == free[: free.index(free[3]) + 1]
    assert ignored.token_ids == free


def test_tokens_are_handed_out_as_they_are_emitted():
    engine = Engine(small_orthrus(), EngineConfig(max_context=64, self_check=False))
    seen: list[list[int]] = []
    [completion] = engine.run([Request([1, 2, 3], SamplingParams(max_new_tokens=12), on_tokens=seen.append)])
    assert [token for chunk in seen for token in chunk] == completion.token_ids
    assert len(seen) > 1


def test_a_cancelled_request_never_completes():
    engine = Engine(small_orthrus(), EngineConfig(max_context=64, max_sequences=1, self_check=False))
    running = engine.submit(Request([1, 2], SamplingParams(max_new_tokens=5)))
    waiting = engine.submit(Request([3, 4], SamplingParams(max_new_tokens=5)))
    engine.step()
    assert engine.cancel(running)
    assert not engine.cancel(running)
    completions = []
    while engine.has_work:
        completions += engine.step()
    assert [c.request_id for c in completions] == [waiting]


def test_consensus_needs_no_more_cache_than_ar_but_for_blocks_in_flight():
    model = small_orthrus(block_size=8)
    consensus, ar = (
        Engine(model, EngineConfig(mode=mode, max_context=64, token_budget=64, self_check=False))
        for mode in ("consensus", "autoregressive")
    )
    assert consensus.cache.bytes_per_token == ar.cache.bytes_per_token
    assert consensus.runner.tables.pool.num_pages == ar.runner.tables.pool.num_pages
    # as many blocks of 8 rows as 64 rows hold, each of which may begin at the end of a page of 16 cells
    assert len(consensus.cache.keys[0]) == len(ar.cache.keys[0]) + 8 * 2


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"block_size": 9}, "block_size must be <= 8, the block size of the head, got 9"),
        ({"max_context": 1025}, "max_context must be <= 1024, the positions of the model, got 1025"),
    ],
)
def test_a_config_that_does_not_fit_the_model_is_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        Engine(small_orthrus(block_size=8), EngineConfig(**{"max_context": 64} | config))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"token_budget": 4, "max_sequences": 5}, r"token_budget, .* must be >= max_sequences \(5\), got 4"),
        ({"max_context": 64, "num_pages": 4}, "num_pages must be >= 5"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        EngineConfig(**config)


def test_params_must_be_one_or_one_per_prompt():
    with pytest.raises(ConfigError, match="got 2 prompts but 1 sampling params"):
        Engine(small_orthrus(), EngineConfig(max_context=64, self_check=False)).generate(
            [[1], [2]], [SamplingParams()]
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", seeds(3))
def test_adaptive_blocks_on_a_ladder_of_budgets_keep_the_bits_of_one_budget(dtype, seed, monkeypatch):
    source = random.Random(seed)
    model = small_orthrus(seed=seed, dtype=dtype)
    params = SamplingParams(max_new_tokens=24)
    requests = [Request(prompt, params) for prompt in random_prompts(seed, 12, longest=120)]
    references = alone(model, requests, token_budget=64, max_context=640)
    config = EngineConfig(token_budget=64, max_sequences=6, max_context=640)
    engine = Engine(model, config, draft=mostly_right(requests, references, 0.8, random.Random(seed)))
    budgets = set()
    lay_out = engine.runner.lay_out

    def counted(spans, view, *, token_budget, **options):
        budgets.add(token_budget)
        return lay_out(spans, view, token_budget=token_budget, **options)

    monkeypatch.setattr(engine.runner, "lay_out", counted)
    assert outcomes(run_with_arrivals(engine, requests, source)) == outcomes(references)
    assert len(budgets) > 2, "the load moved along the ladder"


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["consensus", "autoregressive"])
def test_compiled_and_eager_engines_emit_the_same_tokens(mode):
    model = small_orthrus(sameness=0.3)
    prompts = random_prompts(4, 6, longest=60)
    texts = [
        [
            completion.token_ids
            for completion in Engine(
                model, EngineConfig(mode=mode, max_context=128, compile=compiled)
            ).generate(prompts, SamplingParams(max_new_tokens=30))
        ]
        for compiled in ("on", "off")
    ]
    assert texts[0] == texts[1]
