"""The Triton kernels against plain attention, and their bits against themselves."""

from dataclasses import replace

import pytest
import torch

from orthrus_core.attention.rows import Span
from orthrus_core.attention.spec import AttentionSpec
from orthrus_core.attention.trial import random_trial
from orthrus_core.attention.triton_paged import (
    PARTIAL_BYTES,
    KernelSizes,
    TritonBackend,
    partial_bytes,
)
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


@pytest.mark.parametrize("window", [None, 70])
@pytest.mark.usefixtures("ordered_products")
def test_tiles_walked_whole_have_the_bits_of_tiles_that_are_spread(kernel_device, window):
    spec = replace(SPEC, device=kernel_device)
    spans = [Span(0, 121, [0] * 11), Span(1, 60, [0] * 7), Span(2, 190, [0])]
    trial = random_trial(spec, spans, token_budget=19)
    spread, whole = backend_for(spec), backend_for(spec)
    whole.tiling = replace(whole.tiling, max_partials=0)
    merges = [int(backend.arrange(trial.spans, 19)[1]) for backend in (spread, whole)]
    assert merges[0] > 0 == merges[1]
    outs = [trial.run(backend, scaling=SCALING, window=window) for backend in (spread, whole)]
    assert torch.equal(*outs)


@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.usefixtures("ordered_products")
def test_nan_in_later_rows_of_a_tile_leaves_the_earlier_ones_alone(kernel_device, window):
    spec = replace(SPEC, device=kernel_device)
    trial = random_trial(spec, [Span(0, 90, [0] * 5)], token_budget=6)
    clean = trial.run(backend_for(spec), scaling=SCALING, window=window)
    for numbers in (trial.q, trial.k, trial.v):
        numbers[3:] = float("nan")
    broken = trial.run(backend_for(spec), scaling=SCALING, window=window)
    assert torch.equal(broken[:3], clean[:3])
    assert broken[3:5].isnan().all()


@pytest.mark.usefixtures("ordered_products")
def test_a_cell_before_the_window_may_hold_anything(kernel_device):
    spec = replace(SPEC, device=kernel_device)
    trial = random_trial(spec, [Span(0, 90, [0] * 5)], token_budget=5)
    clean = trial.run(backend_for(spec), scaling=SCALING, window=40)
    trial.values[trial.page_tables[0, 53 // 16], 53 % 16] = float("nan")  # rows see from 51, 52, .. 55 on
    broken = trial.run(backend_for(spec), scaling=SCALING, window=40)
    assert broken[:3].isnan().all()
    assert torch.equal(broken[3:], clean[3:])


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 70])
def test_capped_scores_equal_those_of_plain_attention(kernel_device, causal, window):
    spec = replace(SPEC, device=kernel_device)
    trial = random_trial(spec, [Span(0, 121, [0] * 11), Span(1, 0, [0] * 7)], token_budget=20, causal=causal)
    out = trial.run(backend_for(spec), scaling=SCALING, window=window, softcap=0.5)
    expected = trial.answer(scaling=SCALING, window=window, softcap=0.5)
    torch.testing.assert_close(out[:18], expected, atol=2e-6, rtol=1e-5)
    assert not torch.allclose(out[:18], trial.answer(scaling=SCALING, window=window), atol=1e-3)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "page_size", "start", "rows", "window"),
    [
        (9, 3, 64, 16, 250, 9, None),
        (4, 1, 80, 64, 251, 20, 100),
        (8, 1, 96, 32, 500, 17, 300),
        (14, 2, 128, 16, 290, 9, None),
        (4, 2, 256, 16, 255, 17, 64),
    ],
)
@pytest.mark.parametrize("causal", [True, False])
def test_the_table_s_sizes_equal_attention_in_double_precision(
    kernel_device, heads, kv_heads, head_dim, page_size, start, rows, window, causal
):
    spec = AttentionSpec(heads, kv_heads, head_dim, page_size, 600, torch.float16, kernel_device)
    spans = [Span(0, start, [0] * rows), Span(1, 11, [0])]
    trial = random_trial(spec, spans, token_budget=rows + 2, causal=causal)
    out = trial.run(TritonBackend(spec), scaling=head_dim**-0.5, window=window, softcap=5.0)
    double = {name: getattr(trial, name).double() for name in ("q", "k", "v", "keys", "values")}
    expected = replace(trial, **double).answer(scaling=head_dim**-0.5, window=window, softcap=5.0)
    torch.testing.assert_close(out[: rows + 1].float(), expected, atol=1e-3, rtol=2e-3)


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
    plan = backend.arrange(first.spans, 8)
    items_before = int(plan[0])
    assert backend.arrange(second.spans, 8).data_ptr() == plan.data_ptr()
    assert (items_before, int(plan[0])) == (1, 3)


def test_the_views_do_not_overwrite_each_other_s_plans():
    backend = backend_for(SPEC)
    trials = [
        random_trial(SPEC, [Span(0, 5, [0] * 3)], token_budget=8, causal=causal) for causal in (True, False)
    ]
    plans = [backend.arrange(trial.spans, 8) for trial in trials]
    assert plans[0].data_ptr() != plans[1].data_ptr()


MODEL_8B = AttentionSpec(32, 8, 128, 16, 16384, torch.bfloat16, torch.device("cpu"))


@pytest.mark.parametrize("head_dim", [64, 80, 96, 128])
@pytest.mark.parametrize(("repeats", "rows"), [(1, 64), (2, 32), (3, 21), (4, 16), (5, 25), (7, 18), (8, 16)])
def test_a_tile_holds_a_block_of_16_rows_with_all_heads_of_a_group(head_dim, repeats, rows):
    spec = replace(MODEL_8B, num_heads=8 * repeats, head_dim=head_dim)
    assert TritonBackend(spec).tiling.rows_per_tile == rows


def test_head_size_256_holds_16_rows_of_two_heads():
    assert TritonBackend(replace(MODEL_8B, head_dim=256, num_heads=16)).tiling.rows_per_tile == 16


def test_nine_rows_of_a_block_read_keys_and_values_once():
    trial = random_trial(MODEL_8B, [Span(0, 5000, [0] * 9)], token_budget=16)
    plan = TritonBackend(MODEL_8B).tiling.plan(trial.spans, 16)
    assert plan[0] == 5009 // 256 + 1  # an item per split


def test_partial_results_take_no_more_than_their_bound():
    assert partial_bytes(MODEL_8B, 1) == 64 * 32 * 129 * 4  # 64 splits, 32 heads
    backend = TritonBackend(replace(MODEL_8B, max_context=40960))
    for T in (64, 1024, 8192):
        planned = partial_bytes(replace(MODEL_8B, max_context=40960), T)
        assert planned == backend.tiling.num_partials(T) * 32 * 129 * 4 <= PARTIAL_BYTES


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


REPORT = """
from dataclasses import replace
import torch
from orthrus_core.attention.triton_paged import default_sizes
from tests.benchmarks.kernel_report import report, spec_for

spec = spec_for(128, page_size=16, dtype=torch.bfloat16)
row = report(spec, default_sizes(spec), gemma=False)
print(row["instruction"], row["spilled bytes"], row["programs per processor"])
"""


def test_compiles_for_hopper_onto_tensor_cores_with_two_programs_per_processor(output_for_hopper):
    instruction, spilled, programs = output_for_hopper(REPORT).split()
    assert instruction == "wgmma"
    assert int(spilled) <= 64
    assert programs == "2"
