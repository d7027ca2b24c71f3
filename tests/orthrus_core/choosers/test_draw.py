"""The kernels that draw tokens against the slow form, bit for bit, and against themselves."""

import ctypes
import random
import re

import pytest
import torch
from torch import Tensor

import orthrus_core.choosers.draw as draw_module
from orthrus_core import Engine, EngineConfig, SamplingParams
from orthrus_core.choosers.choice import choose
from orthrus_core.choosers.draw import PlainDraw, draw_for, trial_choices, trial_sampling
from orthrus_core.choosers.masks import RowMasks, bits_of
from orthrus_core.choosers.native_draw import SOURCE, NativeDraw
from orthrus_core.choosers.noise import gumbel_noise
from orthrus_core.choosers.sampling import RowSampling, pack
from orthrus_core.choosers.triton_draw import TritonDraw
from orthrus_core.models.readout import read_out
from orthrus_core.native import FLAGS, build_library, load_library
from tests.orthrus_core.linear.test_native import WITHOUT_AVX512
from tests.small_models import small_orthrus

CPU = torch.device("cpu")
SIZES = (1, 2, 15, 16, 17, 97, 255, 256, 257, 1000, 1024, 1025, 5003)


def random_params(source: random.Random) -> SamplingParams:
    return SamplingParams(
        temperature=source.choice([1e-4, 0.3, 0.7, 1.0, 2.0, 50.0]),
        top_k=source.choice([0, 0, 1, 2, 40, 1000, 2**62]),
        top_p=source.choice([1.0, 1.0, 0.5, 0.9, 0.95, 1e-6, 1 - 1e-9]),
        min_p=source.choice([0.0, 0.0, 0.0, 0.02, 0.3, 1.0]),
        seed=source.choice([0, 1, 2**63 - 1]),
    )


def sampling_for(rows, params, device=CPU) -> RowSampling:
    return RowSampling(torch.from_numpy(pack(zip(rows, range(9999), params, strict=False))).to(device))


def random_logits(source: random.Random, rows: int, vocab_size: int) -> Tensor:
    """Of either dtype: flat, peaked, with ties, with excluded tokens, or with one token left."""
    generator = torch.Generator().manual_seed(source.randrange(10**6))
    logits = torch.randn(rows, vocab_size, generator=generator)
    logits *= source.choice([0.0, 0.01, 1.0, 3.0, 10.0, 1e3])
    match source.choice(["smooth", "ties", "excluded", "one"]):
        case "ties":
            logits = logits.round()
        case "excluded":
            is_out = torch.rand(logits.shape, generator=generator) < 0.5
            is_out[:, source.randrange(vocab_size)] = False
            logits[is_out] = float("-inf")
        case "one":
            logits[:, : source.randrange(vocab_size)] = float("-inf")
            logits[:, -1] = 5.0
    return logits.to(source.choice([torch.float32, torch.bfloat16]))


def assert_equals_the_slow_form(draw, seed: int, *, sizes, most_rows: int, device=CPU):
    source = random.Random(seed)
    vocab_size, num_rows = source.choice(sizes), source.randint(1, most_rows)
    logits = random_logits(source, num_rows, vocab_size).to(device)
    rows = sorted(source.sample(range(num_rows), source.randint(1, num_rows)))
    sampling = sampling_for(rows, [random_params(source) for _ in rows], device)
    masks = None
    if source.random() < 0.3:
        bound = source.sample(range(num_rows), source.randint(1, num_rows))
        allowed = [{source.randrange(vocab_size) for _ in range(1 + vocab_size // 2)} for _ in bound]
        bits = [bits_of(ids | set(logits[row].argmax()[None].tolist()), vocab_size)
                for row, ids in zip(bound, allowed, strict=True)]  # fmt: skip
        masks = RowMasks.of(bound, bits, device)
    positions = torch.tensor([source.randrange(40_000) for _ in range(num_rows)], device=device)
    ids, scores = draw(logits, positions, sampling, masks, keep_scores=True)
    expected_ids, expected_scores = PlainDraw()(logits, positions, sampling, masks, keep_scores=True)
    assert torch.equal(scores, expected_scores)
    assert torch.equal(ids, expected_ids)


@pytest.mark.parametrize("seed", range(100))
def test_the_native_kernel_equals_the_slow_form(seed):
    assert_equals_the_slow_form(NativeDraw(), seed, sizes=SIZES, most_rows=24)


def test_the_native_kernel_equals_the_slow_form_on_a_large_vocabulary():
    for seed in range(3):
        assert_equals_the_slow_form(NativeDraw(), seed, sizes=[49_152], most_rows=3)


def test_on_processors_without_wide_vectors_it_equals_the_slow_form_too(monkeypatch):
    monkeypatch.setattr("orthrus_core.native.FLAGS", (*FLAGS, *WITHOUT_AVX512))
    for seed in range(10):
        assert_equals_the_slow_form(NativeDraw(), seed, sizes=SIZES, most_rows=24)


@pytest.mark.parametrize("seed", range(12))
def test_the_triton_kernel_equals_the_slow_form(kernel_device, seed):
    sizes = SIZES[:-3] if kernel_device.type == "cpu" else SIZES
    assert_equals_the_slow_form(TritonDraw(), seed, sizes=sizes, most_rows=2, device=kernel_device)


@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_threads_leave_no_trace(num_threads):
    logits = torch.randn(60, 1000, generator=torch.Generator().manual_seed(0)) * 3
    expected = NativeDraw()(logits, torch.arange(60), trial_sampling(60, CPU))[0]
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        assert torch.equal(NativeDraw()(logits, torch.arange(60), trial_sampling(60, CPU))[0], expected)
    finally:
        torch.set_num_threads(before)


def test_a_row_draws_the_same_in_forwards_of_any_length():
    logits = torch.randn(64, 3000, generator=torch.Generator().manual_seed(0)) * 4
    positions = torch.arange(64) * 7
    together = trial_choices(logits, positions)
    assert len(together.unique()) > 30
    for first, count in ((0, 1), (5, 1), (3, 16), (17, 40)):
        part = slice(first, first + count)
        assert torch.equal(trial_choices(logits[part], positions[part]), together[part])


@pytest.mark.parametrize("key", [(0, 0, 0), (5, 1, 77), (2**63 - 1, 3, 1000)])
def test_the_kernels_noise_has_the_bits_of_the_slow_form(key):
    noise = torch.empty(20_000)
    address = ctypes.c_void_p(noise.data_ptr())
    load_library(build_library("draw", SOURCE)).noise(*map(ctypes.c_int64, (*key, 20_000)), address)
    assert torch.equal(noise, gumbel_noise(*torch.tensor(key)[:, None], 20_000)[0])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_row_has_no_finite_logprob_and_harms_no_other(value):
    logits = torch.randn(8, 500, generator=torch.Generator().manual_seed(0))
    expected = choose(read_out(logits), torch.arange(8), trial_sampling(8, CPU))
    logits[[1, 2, 4, 7], 77] = value
    ids, logprobs, _ = choose(read_out(logits), torch.arange(8), trial_sampling(8, CPU))
    assert logprobs.isfinite().tolist() == [True, False, False, True, False, True, True, False]
    sound = logprobs.isfinite()
    assert torch.equal(ids[sound], expected[0][sound])
    assert torch.equal(logprobs[sound], expected[1][sound])
    assert bool(((ids >= 0) & (ids < 500)).all())


def test_half_precision_that_the_kernel_does_not_read_is_widened():
    logits = torch.randn(4, 300, generator=torch.Generator().manual_seed(0)).half()
    sampling = trial_sampling(4, CPU)
    ids = [draw(logits, torch.arange(4), sampling)[0] for draw in (NativeDraw(), PlainDraw())]
    assert torch.equal(*ids)


def test_logits_may_have_any_strides():
    logits = torch.randn(6, 300, generator=torch.Generator().manual_seed(0))
    expected = trial_choices(logits, torch.arange(6))
    wide = torch.cat([logits, torch.full_like(logits, 99.0)], dim=1)[:, :300]
    for strided in (wide, logits.T.contiguous().T):
        assert torch.equal(trial_choices(strided, torch.arange(6)), expected)


@pytest.fixture
def fresh_choice():
    """`draw_for` forgets before and after what it chose."""
    draw_for.cache_clear()
    yield
    draw_for.cache_clear()


def test_without_a_compiler_the_slow_form_draws_the_same_text(fresh_choice, monkeypatch, caplog):
    model = small_orthrus()
    params = SamplingParams(temperature=1.0, top_p=0.9, max_new_tokens=12)

    def text() -> list[int]:
        return Engine(model, EngineConfig(max_context=64)).generate([[1, 2, 3]], params)[0].token_ids

    expected = text()
    draw_for.cache_clear()
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert text() == expected
    assert draw_for("cpu").name == "plain"
    assert "sampling=plain, the same tokens but slower" in caplog.text
    assert "no C++ compiler found: tried no-such-compiler" in caplog.text


def test_a_kernel_that_draws_otherwise_is_not_trusted(fresh_choice, monkeypatch, caplog):
    def wrong(logits, positions, sampling, masks=None, *, keep_scores=False):
        ids, scores = PlainDraw()(logits, positions, sampling, masks, keep_scores=keep_scores)
        return ids.roll(1), scores

    wrong.name = "triton"
    monkeypatch.setattr(draw_module, "TritonDraw", lambda: wrong)
    monkeypatch.setattr(draw_module, "has_triton", lambda: True)
    monkeypatch.setattr(torch, "device", lambda name: CPU)
    assert draw_for("cuda").name == "plain"
    assert "triton: other tokens than the plain form" in caplog.text


COMPILE = """
from orthrus_core.choosers.triton_kernels import draw_rows
from tests.benchmarks.kernel_report import compile_for_hopper

types = dict.fromkeys(("positions", "packed", "mask_lines", "ids"), "*i64")
types |= {"logits": "*bf16", "mask_bits": "*i32", "filtered": "*fp32"}
types |= dict.fromkeys(("row_stride", "num_rows", "num_words"), "i32")
constants = dict(V=151936, HAS_MASKS=False, KEEP_SCORES=False, BLOCK=1024)
compiled = compile_for_hopper(draw_rows, types, constants, num_warps=8, enable_fp_fusion=False)
print(compiled.asm["ptx"])
"""


@pytest.mark.slow
def test_compiles_for_hopper_without_spills_and_without_fusing_what_the_noise_is_made_of(output_for_hopper):
    ptx = output_for_hopper(COMPILE)
    assert ".local" not in ptx
    assert not re.findall(r"fma\S*\.f64", ptx)
    assert not re.findall(r"fma\.rn\.f32", ptx)  # those of the logarithm that only bounds are .ftz
