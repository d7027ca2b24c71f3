"""Weights of one byte: what they are made of, and the kernel that reads them."""

import pytest
import torch
from torch import Tensor, nn

from orthrus_core.linear.backend import backed
from orthrus_core.linear.native import NativeLinear, build_kernel, row_linear
from orthrus_core.linear.quantised import BYTE_DTYPES, QuantisedLinear, dequantised, quantised
from orthrus_core.native import FLAGS
from tests.orthrus_core.linear.test_native import SHAPES, WITHOUT_AVX512, operands

DTYPES = [torch.float32, torch.bfloat16]
KINDS = list(BYTE_DTYPES.values())


def bytes_of(K: int, N: int, kind: torch.dtype, dtype: torch.dtype, **sizes) -> tuple[Tensor, ...]:
    """Return rows, weight, bias and scale."""
    rows, weight, bias = operands(K, N, dtype=dtype, **sizes)
    return rows, *quantised(weight, kind), bias


def product(rows: Tensor, weight: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return row_linear(rows, weight, bias, build_kernel(rows.dtype), scale)


def test_int8_of_a_row_are_its_numbers_by_its_largest():
    weight, scale = quantised(torch.tensor([[1.27, -0.634, 0.001], [0, 0, 0], [0, -254, 3]]), torch.int8)
    assert weight.tolist() == [[127, -63, 0], [0, 0, 0], [0, -127, 2]]
    assert scale.tolist() == pytest.approx([0.01, 1, 2])


def test_fp8_of_a_row_have_three_bits_behind_the_first():
    weight, scale = quantised(torch.tensor([[448.0, 100, -17, 0.9, 0.002]]), torch.float8_e4m3fn)
    assert weight.float().tolist() == [[448, 96, -16, 0.875, 2**-9]]  # ties to even; 2^-9 is the smallest
    assert scale.tolist() == [1]


def test_a_layer_of_bytes_is_one_of_their_numbers():
    layer = nn.Linear(20, 7)
    made = QuantisedLinear.of(layer, torch.int8)
    same = nn.Linear(20, 7)
    same.load_state_dict({"weight": made.weight * made.scale[:, None], "bias": layer.bias})
    rows = torch.randn(3, 20)
    torch.testing.assert_close(made(rows), same(rows))
    assert (made(rows) - layer(rows)).abs().max() < 0.05
    assert isinstance(made, nn.Linear)
    assert not made.weight.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_every_byte_widens_to_its_number(kind):
    numbers = torch.arange(-127, 128, dtype=torch.int8) if kind is torch.int8 else _all_finite_fp8()
    weight = numbers.repeat_interleave(33)[None].contiguous()  # at every place of a step
    for dtype in DTYPES:
        rows = torch.eye(weight.shape[1], dtype=dtype)[::7].contiguous()
        out = product(rows, weight, torch.ones(1), torch.zeros(1, dtype=dtype))
        assert torch.equal(out[:, 0].float(), weight.float()[0, ::7])


def _all_finite_fp8() -> Tensor:
    every = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    return every[every.float().isfinite()]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("K", "N"), SHAPES)
def test_equals_a_product_in_double_precision_at_any_number_of_rows(K, N, dtype, kind):
    rows, weight, scale, bias = bytes_of(K, N, kind, dtype)
    exact = rows.double() @ dequantised(weight, scale.double(), torch.float64).T + bias.double()
    together = product(rows, weight, scale, bias)
    assert together.dtype == dtype
    rtol = 2**-8 if dtype == torch.bfloat16 else 1e-6
    torch.testing.assert_close(together.double(), exact, atol=3e-6 * K**0.5, rtol=rtol)
    for count in (1, 3, 6, 7, 12, 13, 64):  # widened in registers up to 12, else in the cache
        for first in (0, 57):
            alone = product(rows[first : first + count].clone(), weight, scale, bias)
            assert torch.equal(alone, together[first : first + count]), (count, first)


@pytest.mark.parametrize("kind", KINDS)
def test_neither_threads_nor_narrow_vectors_change_what_is_right(kind, monkeypatch):
    rows, weight, scale, bias = bytes_of(577, 130, kind, torch.bfloat16)
    expected, num_threads = product(rows, weight, scale, bias), torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert torch.equal(product(rows, weight, scale, bias), expected)
    finally:
        torch.set_num_threads(num_threads)
    monkeypatch.setattr("orthrus_core.native.FLAGS", (*FLAGS, *WITHOUT_AVX512))
    narrow = product(rows, weight, scale, bias)
    torch.testing.assert_close(narrow, expected, atol=1e-4, rtol=2**-7)
    assert torch.equal(product(rows[:5], weight, scale, bias), narrow[:5])


def test_the_layers_of_a_backend_are_those_of_the_kernel():
    backend, rows = NativeLinear(torch.bfloat16), torch.randn(4, 64).bfloat16()
    layer = QuantisedLinear.of(nn.Linear(64, 9, bias=False).bfloat16(), torch.int8)
    assert backend.takes(layer)
    expected = row_linear(rows, layer.weight, None, build_kernel(torch.bfloat16), layer.scale)
    assert torch.equal(backed(layer, backend)(rows), expected)
    assert not backend.takes(QuantisedLinear.of(nn.Linear(64, 9), torch.int8))  # its bias is float32


def test_under_torch_compile_it_is_one_operator():
    backend = NativeLinear(torch.float32)
    rows, weight, scale, bias = bytes_of(32, 16, torch.int8, torch.float32, rows=5)
    compiled = torch.compile(backend.multiply, fullgraph=True, backend="aot_eager")
    with torch.inference_mode():
        assert torch.equal(compiled(rows, weight, bias, scale), backend.multiply(rows, weight, bias, scale))
