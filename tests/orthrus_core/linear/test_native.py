"""The CPU kernel of linear layers: right, and each row by itself."""

import platform

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from orthrus_core.linear.native import NativeLinear, build_kernel, row_linear
from orthrus_core.native import FLAGS, KernelError

# K and N: even, odd, shorter than a vector, more columns than a panel
SHAPES = [(64, 32), (100, 50), (33, 7), (5, 3), (1, 1), (577, 130), (1536, 64)]
WITHOUT_AVX512 = ("-mno-avx512f",) if platform.machine() == "x86_64" else ()
DTYPES = [torch.float32, torch.bfloat16]


def operands(K: int, N: int, *, dtype: torch.dtype, rows: int = 200) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(K * N)
    sizes = ((rows, K), (N, K), (N,))
    return tuple(torch.randn(*size, generator=generator).to(dtype) for size in sizes)  # type: ignore


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("K", "N"), SHAPES)
def test_equals_a_product_in_double_precision(K, N, dtype, with_bias):
    rows, weight, bias = operands(K, N, dtype=dtype, rows=13)
    bias = bias if with_bias else None
    exact = linear(rows.double(), weight.double(), None if bias is None else bias.double())
    out = row_linear(rows, weight, bias, build_kernel(dtype))
    assert out.dtype == dtype
    sum_error = 1e-6 * K**0.5 * 3
    torch.testing.assert_close(
        out.double(), exact, atol=sum_error, rtol=2**-8 if dtype == torch.bfloat16 else 1e-6
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("K", "N"), SHAPES)
def test_a_row_has_the_same_bits_among_any_number_of_rows(K, N, dtype):
    rows, weight, bias = operands(K, N, dtype=dtype)
    kernel = build_kernel(dtype)
    together = row_linear(rows, weight, bias, kernel)
    for count in (1, 2, 3, 4, 5, 6, 7, 13, 64):
        for first in (0, 57, 200 - count):
            alone = row_linear(rows[first : first + count].clone(), weight, bias, kernel)
            assert torch.equal(alone, together[first : first + count]), (count, first)


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_change_no_bits(dtype):
    rows, weight, bias = operands(577, 130, dtype=dtype)
    kernel, num_threads = build_kernel(dtype), torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append([row_linear(rows[:M], weight, bias, kernel) for M in (1, 8, 200)])
    finally:
        torch.set_num_threads(num_threads)
    for one, two, three in zip(*results, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)


def test_on_processors_without_wide_vectors_rows_keep_their_bits_too(monkeypatch):
    monkeypatch.setattr("orthrus_core.native.FLAGS", (*FLAGS, *WITHOUT_AVX512))
    for dtype in DTYPES:
        rows, weight, bias = operands(100, 50, dtype=dtype, rows=40)
        kernel = build_kernel(dtype)
        together = row_linear(rows, weight, bias, kernel)
        for count in (1, 3, 8):
            assert torch.equal(row_linear(rows[:count].clone(), weight, bias, kernel), together[:count])
        exact = linear(rows.double(), weight.double(), bias.double())
        torch.testing.assert_close(together.double(), exact, atol=1e-4, rtol=2**-8)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_of_nan_spoils_no_other(dtype):
    rows, weight, bias = operands(100, 50, dtype=dtype, rows=9)
    kernel = build_kernel(dtype)
    sound = row_linear(rows, weight, bias, kernel)
    rows[4] = float("nan")
    out = row_linear(rows, weight, bias, kernel)
    assert out[4].isnan().all()
    assert torch.equal(out[:4], sound[:4])
    assert torch.equal(out[5:], sound[5:])


def test_large_numbers_become_infinite_as_in_torch():
    rows = torch.full((1, 32), 3e38, dtype=torch.bfloat16)
    weight = torch.eye(32, dtype=torch.bfloat16) * 2
    assert row_linear(rows, weight, None, build_kernel(torch.bfloat16)).isinf().all()


@pytest.mark.parametrize(
    ("rows", "weight", "bias"),
    [
        (torch.randn(3, 8, dtype=torch.float64), torch.randn(4, 8, dtype=torch.float64), None),
        (torch.randn(3, 8), torch.randn(8, 4).T, None),
        (torch.randn(3, 8).half(), torch.randn(4, 8).half(), torch.randn(4).half()),
    ],
)
def test_tensors_it_is_not_written_for_go_to_torch(rows, weight, bias):
    out = row_linear(rows, weight, bias, build_kernel(torch.float32))
    assert torch.equal(out, linear(rows, weight, bias))


@pytest.mark.parametrize(
    ("rows", "bias"),
    [(torch.randn(3, 9), None), (torch.randn(3, 8), torch.randn(5)), (torch.randn(3, 8).bfloat16(), None)],
)
def test_tensors_that_do_not_fit_do_not_reach_the_kernel(rows, bias):
    with pytest.raises(RuntimeError):
        row_linear(rows, torch.randn(4, 8), bias, build_kernel(torch.float32))


def test_rows_of_any_strides_and_dimensions():
    rows, weight, bias = operands(100, 50, dtype=torch.float32, rows=12)
    kernel = build_kernel(torch.float32)
    expected = row_linear(rows, weight, bias, kernel)
    assert torch.equal(row_linear(rows.T.contiguous().T, weight, bias, kernel), expected)
    assert torch.equal(row_linear(rows.view(3, 4, 100), weight, bias, kernel), expected.view(3, 4, 50))
    assert row_linear(rows[:0], weight, bias, kernel).shape == (0, 50)


def test_other_dtypes_have_no_kernel():
    with pytest.raises(KernelError, match=r"dtype must be float32 or bfloat16, got torch\.float16"):
        NativeLinear(torch.float16)


def test_under_torch_compile_it_is_one_operator():
    backend = NativeLinear(torch.float32)
    rows, weight, bias = operands(32, 16, dtype=torch.float32, rows=5)
    compiled = torch.compile(backend.multiply, fullgraph=True, backend="aot_eager")
    with torch.inference_mode():
        assert torch.equal(compiled(rows, weight, bias), backend.multiply(rows, weight, bias))
