"""The engine over the Triton kernels."""

import pytest

from orthrus_core import Engine, EngineConfig, SamplingParams
from orthrus_core.attention.triton_paged import KernelSizes, TritonBackend
from orthrus_core.engine import runner
from tests.small_models import small_orthrus

PROMPTS = [[5, 6, 7, 8, 9] * 5, [11, 12]]


@pytest.mark.usefixtures("ordered_products")
def test_consensus_text_equals_ar_text(kernel_device, monkeypatch):
    model = small_orthrus(num_layers=1, sameness=0.2).to(kernel_device)
    config = model.config

    def choose(spec, wanted):
        return TritonBackend(spec, KernelSizes(queries=16, tile_cells=16, split_length=16, programs=2))

    monkeypatch.setattr(runner, "choose_backend", choose)

    def texts(mode: str, max_sequences: int) -> list[list[int]]:
        options = EngineConfig(
            mode=mode, token_budget=8, max_sequences=max_sequences, max_context=64, self_check=False
        )
        engine = Engine(model, options)
        assert engine.report()["attention"] == "triton"
        params = SamplingParams(max_new_tokens=10, ignore_eos=True)
        return [completion.token_ids for completion in engine.generate(PROMPTS, params)]

    assert config.block_size > 1
    alone = texts("autoregressive", 1)
    assert [len(text) for text in alone] == [10, 10]
    assert texts("consensus", 2) == alone
