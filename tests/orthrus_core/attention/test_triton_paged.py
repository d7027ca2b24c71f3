"""The Triton kernels against plain attention, and their bits against themselves."""

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from orthrus_core.attention.rows import Span
from orthrus_core.attention.spec import AttentionSpec
from orthrus_core.attention.trial import random_trial
from orthrus_core.attention.triton_paged import KernelSizes, TritonBackend, default_sizes
from orthrus_core.errors import ConfigError

SPEC = AttentionSpec(
    num_heads=6,
    num_kv_heads=2,
    head_dim=32,
    page_size=16,
    max_context=200,
    dtype=torch.float32,
    device=torch.device("cpu"),
)
SIZES = KernelSizes(queries=16, tile_cells=16, split_length=64, programs=3)
SCALING = 0.2


def backend_for(spec: AttentionSpec) -> TritonBackend:
    return TritonBackend(spec, SIZES)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 7, 70])
def test_equals_plain_attention_on_spans_of_odd_length(kernel_device, causal, window):
    spec = replace(SPEC, device=kernel_device)
    spans = [Span(0, 121, [0] * 11), Span(1, 0, [0] * 7), Span(2, 63, [0] * 1)]
    trial = random_trial(spec, spans, token_budget=21, causal=causal)
    out = trial.run(backend_for(spec), scaling=SCALING, window=window)
    torch.testing.assert_close(out[:19], trial.answer(scaling=SCALING, window=window), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "page_size"),
    [(4, 4, 64, 32), (8, 1, 128, 16), (5, 1, 80, 64), (2, 1, 256, 16), (20, 1, 32, 8)],
)
def test_equals_plain_attention_in_other_shapes(kernel_device, heads, kv_heads, head_dim, page_size):
    spec = AttentionSpec(heads, kv_heads, head_dim, page_size, 100, torch.float32, kernel_device)
    trial = random_trial(spec, [Span(0, 61, [0] * 5), Span(1, 30, [0] * 3)], token_budget=9)
    out = trial.run(TritonBackend(spec, replace(SIZES, queries=32)), scaling=SCALING)
    torch.testing.assert_close(out[:8], trial.answer(scaling=SCALING), atol=4e-6, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_half_precision_stays_near_plain_attention(kernel_device, dtype, tolerance):
    if dtype is torch.bfloat16 and kernel_device.type == "cpu":
        pytest.skip("Triton's interpreter does not multiply bfloat16")
    spec = replace(SPEC, dtype=dtype, device=kernel_device)
    trial = random_trial(spec, [Span(0, 121, [0] * 11)], token_budget=12)
    out = trial.run(backend_for(spec), scaling=SCALING)
    torch.testing.assert_close(
        out[:11].float(), trial.answer(scaling=SCALING), atol=tolerance, rtol=tolerance
    )


@pytest.mark.parametrize("window", [None, 50])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.usefixtures("ordered_products")
def test_a_row_has_the_same_bits_in_every_span_and_beside_any_neighbour(kernel_device, window, dtype):
    spec = replace(SPEC, dtype=dtype, device=kernel_device)
    backend = backend_for(spec)

    def bits(position: int, spans: list[Span], token_budget: int) -> torch.Tensor:
        trial = random_trial(spec, spans, token_budget=token_budget, num_slots=3)
        (row,) = ((trial.packed[2] == 0) & (trial.packed[4] == position)).nonzero().flatten().tolist()
        return trial.run(backend, scaling=SCALING, window=window)[row]

    for position in (63, 64, 130):
        alone = bits(position, [Span(0, position, [0] * 1)], 1)
        assert torch.equal(bits(position, [Span(0, position - 2, [0] * 9)], 16), alone)
        assert torch.equal(bits(position, [Span(0, position - 12, [0] * 13)], 13), alone)
        beside = [Span(1, 199, [0] * 1), Span(0, position, [0] * 4), Span(2, 3, [0] * 2)]
        assert torch.equal(bits(position, beside, 9), alone)


@pytest.mark.usefixtures("ordered_products")
def test_the_diffusion_view_gives_a_block_the_same_bits_beside_any_neighbour(kernel_device):
    spec = replace(SPEC, device=kernel_device)
    backend = backend_for(spec)
    block = Span(1, 60, [0] * 8)
    alone = random_trial(spec, [block], token_budget=8, causal=False, num_slots=3)
    spans = [Span(0, 150, [0] * 3), block, Span(2, 0, [0] * 1)]
    beside = random_trial(spec, spans, token_budget=16, causal=False, num_slots=3)
    assert torch.equal(beside.run(backend, scaling=SCALING)[3:11], alone.run(backend, scaling=SCALING))


def test_the_number_of_programs_changes_no_bits(kernel_device):
    spec = replace(SPEC, device=kernel_device)
    trial = random_trial(spec, [Span(0, 90, [0] * 5)], token_budget=6)
    one, many = (TritonBackend(spec, replace(SIZES, programs=count)) for count in (1, 100))
    assert torch.equal(trial.run(one, scaling=SCALING), trial.run(many, scaling=SCALING))


def test_rows_left_over_get_zeros(kernel_device):
    spec = replace(SPEC, device=kernel_device)
    trial = random_trial(spec, [Span(0, 90, [0] * 2)], token_budget=20)
    assert not trial.run(backend_for(spec), scaling=SCALING)[2:].any()


def test_a_cell_nobody_sees_may_hold_anything(kernel_device):
    spec = replace(SPEC, device=kernel_device)
    trial = random_trial(spec, [Span(0, 90, [0] * 2)], token_budget=2)
    clean = trial.run(backend_for(spec), scaling=SCALING)
    for cache in (trial.keys, trial.values):
        cache[trial.page_tables[0, 6:]] = float("nan")  # cells from 96 on; the rows see 0 to 91
        cache[trial.page_tables[0, 5], 12:] = float("nan")
    assert torch.equal(trial.run(backend_for(spec), scaling=SCALING), clean)


def test_queries_need_not_be_contiguous(kernel_device):
    spec = replace(SPEC, device=kernel_device)
    trial = random_trial(spec, [Span(0, 90, [0] * 2)], token_budget=2)
    across = replace(trial, **{name: getattr(trial, name).transpose(0, 1).contiguous().transpose(0, 1)
                               for name in "qkv"})  # fmt: skip
    assert not across.q.is_contiguous()
    backend = backend_for(spec)
    assert torch.equal(across.run(backend, scaling=SCALING), trial.run(backend, scaling=SCALING))


def test_its_output_has_a_shape_without_running():
    spec = replace(SPEC, device=torch.device("meta"))
    trial = random_trial(spec, [Span(0, 90, [0] * 2)], token_budget=3)
    assert trial.run(backend_for(spec), scaling=SCALING).shape == (3, 6, 32)


@pytest.mark.parametrize("causal", [True, False])
def test_a_view_s_plans_of_as_many_rows_share_an_address(causal):
    backend = backend_for(SPEC)
    first, second = (
        random_trial(SPEC, [Span(0, start, [0] * 3)], token_budget=8, causal=causal) for start in (5, 150)
    )
    plan = backend.arrange(first.spans, 8, SPEC.device)
    items_before = int(plan[0])
    assert backend.arrange(second.spans, 8, SPEC.device).data_ptr() == plan.data_ptr()
    assert (items_before, int(plan[0])) == (1, 3)


def test_the_views_do_not_overwrite_each_other_s_plans():
    backend = backend_for(SPEC)
    trials = [
        random_trial(SPEC, [Span(0, 5, [0] * 3)], token_budget=8, causal=causal) for causal in (True, False)
    ]
    plans = [backend.arrange(trial.spans, 8, SPEC.device) for trial in trials]
    assert plans[0].data_ptr() != plans[1].data_ptr()


def test_default_tiles_hold_16_kib_of_keys():
    model_8b = AttentionSpec(32, 8, 128, 16, 4096, torch.bfloat16, torch.device("cpu"))
    assert default_sizes(model_8b).tile_cells == 64
    assert default_sizes(replace(model_8b, dtype=torch.float32)).tile_cells == 32


def test_rows_of_a_tile_fill_its_queries():
    model_8b = AttentionSpec(32, 8, 128, 16, 4096, torch.bfloat16, torch.device("cpu"))
    assert TritonBackend(model_8b).tiling.rows_per_tile == 8
    assert TritonBackend(replace(model_8b, num_heads=16)).tiling.rows_per_tile == 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head_dim": 512}, "head_dim must be 16 to 256, got 512"),
        ({"num_heads": 258}, "query heads per K/V head must be <= 128, got 129"),
        ({"dtype": torch.float64}, "dtype must be float32, bfloat16 or float16, got torch.float64"),
    ],
)
def test_models_beyond_the_kernels_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        TritonBackend(replace(SPEC, **change))


def test_a_split_must_hold_whole_tiles():
    with pytest.raises(ConfigError, match=r"split_length must be a multiple of tile_cells \(32\), got 48"):
        KernelSizes(queries=16, tile_cells=32, split_length=48, programs=1)


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from orthrus_core.attention import triton_kernels

kernel = triton_kernels.attend_splits
half = dict.fromkeys(("q", "keys", "values"), "*bf16")
index = dict.fromkeys(("slots", "limits", "positions", "page_tables"), "*i64")
whole = dict.fromkeys(("q_row", "q_head", "tables_row", "num_rows", "max_splits"), "i32")
rest = dict(plan="*i32", parts="*fp32", lses="*fp32", scaling="fp32")
constants = dict(HEADS=8, REPEATS=4, DIM=128, WIDTH=128, QUERIES=32, TILE_CELLS=64, SPLIT=256, PAGE_SIZE=16,
                 WINDOW=0, PROGRAMS=528)
signature = half | index | whole | rest | dict.fromkeys(constants, "constexpr")
source = ASTSource(
    kernel,
    signature={name: signature[name] for name in kernel.arg_names},
    constexprs={(kernel.arg_names.index(name),): value for name, value in constants.items()},
    attrs={(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in half},
)
options = {"num_warps": 4, "num_stages": 3}
compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
ptx = compiled.asm["ptx"]
print("mma.sync" in ptx, "cp.async" in ptx, ".local" in ptx, compiled.metadata.shared)
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_compiles_for_hopper_onto_tensor_cores_without_spills(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {
        "TRITON_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }
    result = subprocess.run(
        [sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, check=True
    )
    tensor_cores, pipelined, spills, shared = result.stdout.split()
    assert (tensor_cores, pipelined, spills) == ("True", "True", "False")
    assert int(shared) < 114 * 1024  # two programs per processor of 228 KiB
