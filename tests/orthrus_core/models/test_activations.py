"""Activations whose bits depend on the number alone, and the fault of torch's that they are there for."""

import pytest
import torch
from torch import nn
from transformers.activations import ACT2FN

from orthrus_core import Engine, EngineConfig, SamplingParams
from orthrus_core.models.activations import NAMES, RowWiseActivation, row_wise
from orthrus_core.native import KernelError
from tests.small_models import small_orthrus

ALL_NAMES = [name for names in NAMES for name in names]
WIDTHS = (1, 8, 130, 2048)  # of an MLP


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ALL_NAMES)
def test_it_is_what_torch_computes(name, dtype):
    rows = torch.linspace(-90, 90, 4001).to(dtype)
    found, expected = row_wise(ACT2FN[name])(rows), ACT2FN[name](rows)
    near = {"rtol": 2e-6, "atol": 3e-7} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    torch.testing.assert_close(found, expected, **near)
    rest = row_wise(ACT2FN[name])(torch.tensor([torch.inf, torch.nan, 0.0], dtype=dtype))
    assert (rest[0], rest[2]) == (torch.inf, 0.0)
    assert rest[1].isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["silu", "gelu_pytorch_tanh"])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_row_has_the_same_bits_wherever_it_is_on_any_number_of_threads(name, width, dtype, threads):
    act, generator = row_wise(ACT2FN[name]), torch.Generator().manual_seed(0)
    rows = torch.randn(96, width, generator=generator).to(dtype)
    threads(1)
    alone = torch.cat([act(row[None]) for row in rows])
    for count in (1, 3, 5, 6):
        threads(count)
        for T in (1, 10, 14, 40, 96):
            assert torch.equal(act(rows[:T]), alone[:T])


def test_rows_need_not_be_contiguous():
    act, rows = row_wise(nn.SiLU()), torch.randn(7, 40)
    assert torch.equal(act(rows[:, 3:20]), act(rows)[:, 3:20])


def test_hooks_of_the_model_s_own_run_once():
    own, seen = nn.SiLU(), []
    act = row_wise(own)
    own.register_forward_hook(lambda _, __, out: seen.append(out) or out * 0)
    assert not act(torch.randn(3, 5)).any()
    assert len(seen) == 1


def test_others_stay_and_without_a_compiler_all_do(monkeypatch):
    relu = nn.ReLU()
    assert row_wise(relu) is relu

    def refuse():
        raise KernelError("no compiler")

    monkeypatch.setattr("orthrus_core.models.activations._kernel", refuse)
    silu = nn.SiLU()
    assert row_wise(silu) is silu


@pytest.mark.parametrize("linear", ["auto", "plain"])
def test_an_engine_s_forwards_run_them_and_its_model_keeps_its_own(linear):
    model = small_orthrus()
    engine = Engine(model, EngineConfig(max_context=32, self_check=False, linear=linear, compile="off"))
    assert isinstance(engine.runner.model.model.layers[0].mlp.act_fn, RowWiseActivation)
    assert not isinstance(model.model.layers[0].mlp.act_fn, RowWiseActivation)


@pytest.mark.parametrize("intermediate_size", [130, 2048])
def test_fp32_consensus_is_ar_bit_for_bit_whatever_the_width_of_the_mlps(intermediate_size, threads):
    threads(3 if intermediate_size == 2048 else 1)
    model = small_orthrus(intermediate_size=intermediate_size)
    prompts = [[1 + n % 7] * (1 + 5 * n) for n in range(12)]
    params = SamplingParams(max_new_tokens=30, ignore_eos=True, logprobs=True)
    outcomes = []
    for mode, max_sequences in (("autoregressive", 3), ("consensus", 12)):
        engine = Engine(model, EngineConfig(mode=mode, max_sequences=max_sequences, max_context=128))
        assert engine.exactness == "exact"
        outcomes.append([(one.token_ids, one.logprobs) for one in engine.generate(prompts, params)])
    assert outcomes[0] == outcomes[1]
