import pytest

from orthrus_core.cache import KVCache
from orthrus_core.engine.config import EngineConfig
from orthrus_core.evaluation.capacity import Work, actor_memory, sequences_that_fit, work_time
from orthrus_core.evaluation.cost import Hardware, ModelShape
from orthrus_core.evaluation.curve import AcceptanceCurve
from orthrus_core.readiness.engine import Engine
from tests.orthrus_core.evaluation.shapes import TINY
from tests.small_models import small_orthrus

ENGINE = EngineConfig(token_budget=8, max_sequences=3, max_context=32, page_size=16)


def test_weights_and_cache_are_those_of_a_real_engine():
    model = small_orthrus()
    engine = Engine(model, ENGINE.model_copy(update={"self_check": False, "compile": "off"}))
    memory = actor_memory(
        ModelShape.from_config(model.config, dtype_bytes=4), ENGINE, block_size=4, device_type="cpu"
    )
    assert memory.weights == sum(p.numel() * p.element_size() for p in model.parameters())
    assert isinstance(engine.cache, KVCache)
    cache = sum(t.numel() * t.element_size() for t in (*engine.cache.keys, *engine.cache.values))
    assert memory.cache == cache


def test_working_memory_counts_logits_of_both_views_and_two_copies_in_fp32():
    # logits: 8 rows x 5 entries x (2 views x 2 bytes + 2 x 4); vectors: 8 rows x (8 x 4 + 2 x 3) x 2 bytes
    memory = actor_memory(TINY, ENGINE, block_size=4, device_type="cpu")
    assert memory.working == 8 * 5 * 12 + 8 * 38 * 2
    ar = actor_memory(
        TINY, ENGINE.model_copy(update={"mode": "autoregressive"}), block_size=4, device_type="cpu"
    )
    assert ar.working == 8 * 5 * 10 + 8 * 38 * 2


def _needed(sequences: int) -> int:
    engine = EngineConfig(token_budget=64, max_sequences=sequences, max_context=32, page_size=16)
    return actor_memory(TINY, engine, block_size=4, device_type="cpu").total


def test_as_many_sequences_fit_as_the_next_one_would_break():
    engine = EngineConfig(token_budget=64, max_sequences=1, max_context=32, page_size=16)
    memory = _needed(37)

    def fit(memory_bytes: float) -> int:
        return sequences_that_fit(TINY, engine, memory_bytes=memory_bytes, block_size=4, device_type="cpu")

    assert fit(memory) == 37
    assert fit(memory - 1) == 36
    assert fit(_needed(1) - 1) == 0


def test_the_time_of_ar_work_is_tokens_by_rate_and_prompts_by_forwards():
    # memory is endless, arithmetic 1e6 FLOP/s: 376 FLOPs of matrices a row (188 parameters) and attention
    hardware = Hardware(bytes_per_s=1e30, flops_per_s=1e6)
    engine = ENGINE.model_copy(update={"mode": "autoregressive"})
    work = Work(rows=10, prompt_tokens=4, completions=2, completion_tokens=6)
    time = work_time(hardware, TINY, engine, work, (AcceptanceCurve(()),), block_size=4, device_type="cpu")
    attention = 4 * 2 * 2 * 2  # 4 x heads x head size x layers, for each position of the context
    row_flops = 376 + attention * 7  # context: 4 of the prompt and half of 6
    assert time.tokens_per_s == pytest.approx(1e6 / row_flops)
    assert time.decode_s == pytest.approx(10 * 2 * 6 * row_flops / 1e6)
    assert time.prefill_s == pytest.approx(10 * 4 * (376 + attention * 2) / 1e6)
    assert time.total_s == time.decode_s + time.prefill_s


def test_drafts_make_memory_bound_work_shorter_and_never_longer():
    memory_bound = Hardware(bytes_per_s=1e3, flops_per_s=1e12)
    work = Work(rows=10, prompt_tokens=4, completions=1, completion_tokens=6)
    good, bad = AcceptanceCurve((0.9, 0.9, 0.9)), AcceptanceCurve((0.0,))
    fast = work_time(memory_bound, TINY, ENGINE, work, (good,), block_size=3, device_type="cpu")
    assert fast.tokens_per_s > 1.3 * fast.ar_tokens_per_s
    slow = work_time(memory_bound, TINY, ENGINE, work, (bad,), block_size=3, device_type="cpu")
    assert slow.tokens_per_s == slow.ar_tokens_per_s
