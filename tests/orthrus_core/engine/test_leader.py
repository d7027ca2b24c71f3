"""Two processes run one model: text and bits are those of one engine, whatever runs beside."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from orthrus_core import Engine, EngineConfig, EngineError, SamplingParams, load_model
from orthrus_core.request import Request
from tests.orthrus_core.models.backbones import COMMON, new_backbone, with_head
from tests.orthrus_core.rank import shared_model, two_ranks
from tests.small_models import small_backbone, small_orthrus

DEMO = Path(__file__).parents[3] / "pipelines/demo/model"
PROMPTS = [[(7 * n + 3 * i) % 90 + 4 for i in range(5 + 11 * n)] for n in range(4)]
GREEDY = SamplingParams(max_new_tokens=16, logprobs=True)
SAMPLED = SamplingParams(max_new_tokens=16, logprobs=True, temperature=0.8, top_p=0.95, seed=5)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    with two_ranks(tmp_path_factory.mktemp("ranks")) as (ranks, _):
        yield ranks


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A random model of 97 tokens, which two ranks cannot halve."""
    path = tmp_path_factory.mktemp("model")
    small_orthrus(sameness=0.2).save_pretrained(path)
    return path


def complete(model, *, S=4, T=64, **options):
    """Tokens and log-probabilities of greedy and of sampled completions, and the engine's report."""
    options = {"self_check": False, "max_context": 128} | options
    engine = Engine(model, EngineConfig(max_sequences=S, token_budget=T, **options))
    requests = [Request(prompt, params) for params in (GREEDY, SAMPLED) for prompt in PROMPTS]
    completions = engine.run(requests)
    assert all(one.error is None for one in completions)
    return [(one.token_ids, list(one.logprobs)) for one in completions], engine.report()


def texts(completions) -> list[list[int]]:
    return [token_ids for token_ids, _ in completions]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_consensus_of_two_ranks_is_their_ar_bit_for_bit_at_any_batch_and_budget(ranks, checkpoint, dtype):
    with shared_model(ranks, checkpoint, dtype=dtype) as model:
        expected, _ = complete(model, mode="autoregressive", S=1, T=16)
        for S, T in [(1, 16), (3, 24), (8, 64)]:
            found, report = complete(model, S=S, T=T)
            assert found == expected
            assert sum(report["drafted_by_position"]) > 0


@pytest.mark.parametrize("path", ["demo", "small"])
def test_fp32_text_of_two_ranks_is_that_of_one_process(ranks, checkpoint, path):
    directory = DEMO if path == "demo" else checkpoint
    with shared_model(ranks, directory, dtype="float32") as model:
        shared, report = complete(model, self_check=True)
    alone, _ = complete(load_model(directory, dtype=torch.float32))
    assert report["exactness"] == "exact"
    assert texts(shared) == texts(alone)
    for (_, found), (_, expected) in zip(shared, alone, strict=True):
        assert found == pytest.approx(expected, abs=1e-4)


BACKBONES = {
    "plain": lambda: small_backbone(sameness=0.2),
    "biases": lambda: new_backbone("llama-3.1"),
    "softcaps": lambda: new_backbone("gemma2"),
    "scaled": lambda: with_head("gemma3"),
    "no head_dim": lambda: new_backbone("qwen2"),
    "untested": lambda: AutoModelForCausalLM.from_config(AutoConfig.for_model("olmo", **COMMON)),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_slices_of_other_backbones_give_the_text_of_the_whole(ranks, tmp_path, name):
    BACKBONES[name]().save_pretrained(tmp_path, max_shard_size="60KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    with shared_model(ranks, tmp_path, needs_head=False) as model:
        shared, _ = complete(model)
    alone, _ = complete(load_model(tmp_path, needs_head=False))
    assert texts(shared) == texts(alone)


def test_a_rank_holds_its_half_of_everything_that_is_large(ranks, checkpoint):
    with shared_model(ranks, checkpoint) as model:
        engine = Engine(model, EngineConfig(max_context=64, max_sequences=2, self_check=False))
        half = {name: tuple(one.shape) for name, one in model.named_parameters()}
        cells = engine.cache.bytes_per_token
    whole = load_model(checkpoint)
    numbers = {name.replace("rows.", ""): shape for name, shape in half.items()}
    for name, parameter in whole.named_parameters():
        if parameter.ndim == 2:  # 49 of 97 tokens, the rest is even
            assert 2 * torch.Size(numbers[name]).numel() in (parameter.numel(), parameter.numel() + 48), name
    alone = Engine(whole, EngineConfig(max_context=64, max_sequences=2, self_check=False))
    assert 2 * cells == alone.cache.bytes_per_token


def test_the_check_at_the_start_sees_a_rank_whose_rows_depend_on_each_other(ranks, checkpoint):
    with shared_model(ranks, checkpoint, fault="beside") as model:
        engine = Engine(model, EngineConfig(max_context=128, max_sequences=4, linear="native"))
        assert engine.exactness == "unverified"


def test_only_the_last_engine_of_the_ranks_can_be_used(ranks, checkpoint):
    config = EngineConfig(max_context=64, max_sequences=2, self_check=False)
    with shared_model(ranks, checkpoint) as model:
        first, _ = Engine(model, config), Engine(model, config)
        first.submit(Request([5, 6], GREEDY))
        with pytest.raises(EngineError, match="a later engine"):
            first.step()
