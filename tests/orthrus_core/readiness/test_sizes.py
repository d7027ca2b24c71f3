"""Sizes that a config leaves open, from a model and the memory beside it."""

import pytest
import torch

from orthrus_core import Engine, EngineConfig, SamplingParams
from orthrus_core.errors import ConfigError
from orthrus_core.readiness import engine as engine_module
from orthrus_core.readiness.device_memory import DeviceMemory
from orthrus_core.readiness.memory import page_bytes, plan_memory, skeleton
from orthrus_core.readiness.sizes import MOST_ELSEWHERE, MOST_SEQUENCES, TYPICAL_TOKENS, fit
from tests.orthrus_core.models.backbones import with_head
from tests.small_models import small_orthrus

QUICK = {"self_check": False, "compile": "off"}
PAGE = 2 * 2 * 2 * 16 * 4 * 16  # layers, keys and values, 2 heads of 16 numbers of 4 bytes, 16 cells


@pytest.fixture(scope="module")
def model():
    return small_orthrus(max_position_embeddings=4096)


def fitted(model, left, *, device_type="cpu", typical=None, **options) -> EngineConfig:
    return fit(EngineConfig(**options), model, device_type=device_type, left=left, typical=typical)


def buffers(model, config, device_type="cpu") -> int:
    return plan_memory(model, config, device_type=device_type).buffers


def left_for(model, pages: int, *, max_sequences: int = 1) -> int:
    """Bytes that leave room for so many pages on a CPU, beside the buffers of so many sequences."""
    return buffers(model, fitted(model, 2**40, max_sequences=max_sequences)) + 2 * pages * PAGE


def test_a_page_has_the_bytes_that_the_cache_gives_it(model):
    cache = Engine(model, EngineConfig(max_context=64, max_sequences=2, **QUICK)).cache
    assert page_bytes(model, 16) == PAGE == 16 * cache.bytes_per_token


def test_what_is_given_stays(model):
    config = fitted(model, 2**40, max_sequences=3, max_context=100)
    assert (config.max_sequences, config.max_context, config.num_pages) == (3, 100, 3 * 7 + 1)


def test_with_room_for_all_context_is_the_models_and_sequences_are_as_many_as_the_device_likes(model):
    for device_type, most in (("cpu", MOST_ELSEWHERE), ("cuda", MOST_SEQUENCES["cuda"])):
        config = fitted(model, 2**40, device_type=device_type)
        assert (config.max_context, config.max_sequences) == (4096, most)


def test_a_gpu_has_pages_for_every_sequence_at_max_context_a_cpu_for_typical_ones(model):
    assert fitted(model, 2**40, device_type="cuda").num_pages == MOST_SEQUENCES["cuda"] * 4096 // 16 + 1
    assert fitted(model, 2**40).num_pages == MOST_ELSEWHERE * TYPICAL_TOKENS // 16 + 1


def test_pages_take_all_that_is_left_beside_the_buffers(model):
    full = fitted(model, 2**40, device_type="cuda", max_sequences=64)
    left = buffers(model, full, "cuda") + 5000 * PAGE + PAGE // 2
    config = fitted(model, left, device_type="cuda", max_sequences=64)
    assert config.num_pages == 5000


def test_sequences_follow_from_pages_and_a_typical_length(model):
    one = fitted(model, 2**40, device_type="cuda", max_sequences=20)
    left = buffers(model, one, "cuda") + (1 + 20 * 512 // 16) * PAGE
    assert fitted(model, left, device_type="cuda", typical=512).max_sequences == 20


def test_one_sequence_more_would_not_have_fitted(model):
    left = buffers(model, fitted(model, 2**40, device_type="cuda", max_sequences=1), "cuda") + 1000 * PAGE
    chosen = fitted(model, left, device_type="cuda", typical=300).max_sequences
    more = fitted(model, left, device_type="cuda", max_sequences=chosen + 1)
    assert 1 < chosen < MOST_SEQUENCES["cuda"]
    assert (more.num_pages - 1) * 16 < (chosen + 1) * 300


def test_a_context_that_is_left_open_is_what_memory_holds(model):
    config = fitted(model, left_for(model, 11))
    assert (config.max_context, config.max_sequences, config.num_pages) == (160, 1, 11)


def test_a_context_that_is_asked_for_and_does_not_fit_is_refused_with_numbers(model):
    with pytest.raises(ConfigError, match=r"does not fit: .* of weights .* left .*set max_context to 160 or"):
        fitted(model, left_for(model, 11), max_context=4096)


def test_a_device_that_weights_fill_is_refused(model):
    with pytest.raises(ConfigError, match=r"-1\.0 GB are left of memory \(0\.9\) on cuda"):
        fitted(model, -(10**9), device_type="cuda")


def test_a_budget_that_is_given_bounds_sequences(model):
    assert fitted(model, 2**40, token_budget=16).max_sequences == 16
    assert fitted(model, None, budgets=(8, 12)).max_sequences == 12


def test_splits_of_a_long_context_take_memory_on_cuda_only(model):
    config = fitted(model, 2**40, max_sequences=1, max_context=4096, token_budget=64)
    on_cuda = plan_memory(model, config, device_type="cuda")
    assert on_cuda.partials == 64 * 4 * 16 * (16 + 1) * 4  # T, H, splits of 256 cells, Dh and a sum, FP32
    assert plan_memory(model, config, device_type="cpu").partials == 0


def test_logits_are_planned_for_the_rows_that_may_choose(model):
    of_one = {"max_sequences": 1, "max_context": 64, "token_budget": 64, "block_size": 8}
    plan = plan_memory(model, fitted(model, 2**40, **of_one), device_type="cpu")
    assert plan.logits == 10 * 97 * (2 * 4 + 8)  # the rung that holds 9 rows, V, FP32 of two views and copies
    plain = plan_memory(model, fitted(model, 2**40, mode="autoregressive", **of_one), device_type="cpu")
    assert plain.logits == 1 * 97 * (4 + 8)


def test_on_cuda_what_the_head_of_both_views_returns_is_planned_too(model):
    config = fitted(model, 2**40, max_sequences=1, max_context=64, token_budget=64, block_size=8)
    on_cuda, on_cpu = (plan_memory(model, config, device_type=kind).logits for kind in ("cuda", "cpu"))
    assert on_cuda == 16 * 97 * (4 * 4 + 8) > on_cpu


def test_activations_are_planned_for_all_experts_of_every_row():
    model = with_head("qwen3-moe")
    config = fitted(model, 2**40, max_sequences=1, max_context=64, token_budget=64)
    plan = plan_memory(model, config, device_type="cpu")
    assert plan.activations >= 64 * 6 * (3 * 24 + model.config.hidden_size) * 4  # T, E, 3 I + D, FP32


def test_a_plan_from_the_config_alone_is_that_of_the_model_and_of_its_cache(model):
    config = fitted(model, 2**40, max_sequences=4, max_context=128)
    plan = plan_memory(skeleton(model.config, torch.float32), config, device_type="cpu")
    assert plan == plan_memory(model, config, device_type="cpu")
    cache = Engine(model, config.model_copy(update=QUICK)).cache
    assert plan.cache + plan.branches == sum(
        one.numel() * one.element_size() for one in (*cache.keys, *cache.values)
    )
    assert plan.model == sum(one.numel() * one.element_size() for one in model.parameters())


def test_an_engine_with_nothing_set_takes_its_sizes_from_the_memory_that_is_free(model, monkeypatch):
    left = left_for(model, 40)
    monkeypatch.setattr(engine_module, "device_memory", lambda device: DeviceMemory(left, left))
    engine = Engine(model, EngineConfig(memory=1.0, **QUICK))
    assert engine.report()["num_pages"] == engine.config.num_pages == 40
    assert engine.report()["max_context"] == 39 * 16


def test_text_does_not_depend_on_the_memory(model, monkeypatch):
    prompts, params = [[5, 6, 7], [8, 9], [11, 12, 13, 14]] * 3, SamplingParams(max_new_tokens=24)
    texts = []
    for pages in (4, 4000):
        left = left_for(model, pages, max_sequences=4)
        monkeypatch.setattr(
            engine_module, "device_memory", lambda device, left=left: DeviceMemory(left, left)
        )
        engine = Engine(model, EngineConfig(memory=1.0, max_sequences=4, **QUICK))
        texts.append([one.token_ids for one in engine.generate(prompts, params)])
        assert bool(engine.scheduler.num_preemptions) == (pages == 4)
    assert texts[0] == texts[1]


def test_a_share_of_a_gpu_counts_what_others_hold():
    assert DeviceMemory(total=1000, free=600).left(0.9) == 500
    assert DeviceMemory(total=1000, free=50).left(0.9) == -50


def test_sizes_of_a_runner_that_is_there_are_kept(model):
    first = Engine(model, EngineConfig(max_context=64, max_sequences=2, **QUICK))
    second = Engine(first.runner, EngineConfig(**QUICK))
    assert (second.config.max_sequences, second.config.max_context) == (2, 64)


def test_auto_may_be_spelt_out():
    assert EngineConfig.model_validate({"max_sequences": "auto", "max_context": "auto"}) == EngineConfig()
