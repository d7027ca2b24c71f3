"""The Triton kernel of linear layers: right, and each row by itself."""

import importlib.util

import pytest
import torch
from torch.nn.functional import linear

from orthrus_core.linear.backend import backed
from orthrus_core.linear.quantised import BYTE_DTYPES, QuantisedLinear, dequantised, quantised
from orthrus_core.linear.triton_linear import TritonLinear, multiply_rows
from orthrus_core.native import KernelError


def operands(K: int, N: int, *, rows: int, dtype: torch.dtype, device) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(K * N)
    sizes = ((rows, K), (N, K), (N,))
    return [torch.randn(*size, generator=generator).to(dtype).to(device) for size in sizes]


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(("K", "N", "rows"), [(64, 32, 64), (100, 50, 70), (33, 7, 1), (300, 129, 5)])
def test_equals_a_product_in_double_precision(kernel_device, K, N, rows, with_bias):
    x, weight, bias = operands(K, N, rows=rows, dtype=torch.float32, device=kernel_device)
    bias = bias if with_bias else None
    exact = linear(x.double(), weight.double(), None if bias is None else bias.double())
    torch.testing.assert_close(multiply_rows(x, weight, bias).double(), exact, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_half_precision_sums_in_single(kernel_device, dtype, tolerance):
    if dtype is torch.bfloat16 and kernel_device.type == "cpu":
        pytest.skip("Triton's interpreter does not multiply bfloat16")
    x, weight, bias = operands(300, 40, rows=9, dtype=dtype, device=kernel_device)
    exact = linear(x.double(), weight.double(), bias.double())
    torch.testing.assert_close(multiply_rows(x, weight, bias).double(), exact, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.usefixtures("ordered_products")
def test_a_row_has_the_same_bits_among_any_number_of_rows(kernel_device, dtype):
    x, weight, bias = operands(100, 50, rows=200, dtype=dtype, device=kernel_device)
    together = multiply_rows(x, weight, bias)
    for count in (1, 7, 64):
        for first in (0, 57, 200 - count):
            alone = multiply_rows(x[first : first + count], weight, bias)
            assert torch.equal(alone, together[first : first + count]), (count, first)


def test_a_model_may_have_its_layers_through_it(kernel_device):
    backend = TritonLinear(torch.float32, device=str(kernel_device))
    layer = torch.nn.Linear(40, 24, device=kernel_device)
    assert backend.takes(layer)
    rows = torch.randn(2, 3, 40, device=kernel_device)
    torch.testing.assert_close(backend.multiply(rows, layer.weight, layer.bias), layer(rows))


@pytest.mark.parametrize("kind", BYTE_DTYPES.values())
@pytest.mark.usefixtures("ordered_products")
def test_bytes_are_widened_and_scaled_alike_in_every_row(kernel_device, kind):
    x, weight, bias = operands(100, 50, rows=70, dtype=torch.float32, device=kernel_device)
    weight, scale = quantised(weight, kind)
    exact = x.double() @ dequantised(weight, scale.double(), torch.float64).T + bias.double()
    together = multiply_rows(x, weight, bias, scale)
    torch.testing.assert_close(together.double(), exact, atol=3e-5, rtol=1e-5)
    assert torch.equal(multiply_rows(x[57:64], weight, bias, scale), together[57:64])


@pytest.mark.parametrize("kind", BYTE_DTYPES.values())
def test_a_model_of_bytes_has_its_layers_through_it_too(kernel_device, kind):
    backend = TritonLinear(torch.float16, device=str(kernel_device))
    layer = QuantisedLinear.of(torch.nn.Linear(40, 24, device=kernel_device).half(), kind)
    assert backend.takes(layer)
    rows = torch.randn(3, 40, device=kernel_device).half()
    torch.testing.assert_close(backed(layer, backend)(rows), layer(rows), atol=2e-3, rtol=2e-3)


def test_bytes_that_a_card_does_not_read_are_dequantised(kernel_device, monkeypatch, caplog):
    backend = TritonLinear(torch.float32, device=str(kernel_device))
    monkeypatch.setattr("orthrus_core.linear.triton_linear.multiply_rows", lambda *x: x[0].nonsense)
    layer = QuantisedLinear.of(torch.nn.Linear(40, 24, device=kernel_device), torch.int8)
    assert not backend.takes(layer)
    assert not backend.takes(layer)
    [line] = caplog.messages
    assert line.startswith("weights in torch.int8 are dequantised in every forward, which is slow: triton:")


def test_wrong_numbers_are_found_out(kernel_device, monkeypatch):
    monkeypatch.setattr("orthrus_core.linear.triton_linear.multiply_rows", lambda *x: linear(*x) + 1)
    with pytest.raises(KernelError, match=r"off by 0\.07"):
        TritonLinear(torch.float32, device=str(kernel_device))


def test_without_triton_it_cannot_be_had(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(KernelError, match="triton is not installed"):
        TritonLinear(torch.float32)


COMPILE = """
import itertools

from orthrus_core.linear.triton_kernels import multiply_rows
from orthrus_core.linear.triton_linear import NUM_STAGES, NUM_WARPS, TILE_COLUMNS, TILE_DEPTH, TILE_ROWS
from tests.benchmarks.kernel_report import compile_for_hopper

kinds = ("*bf16", "*i8", "*fp8e4nv")
for kind, columns in itertools.product(kinds, TILE_COLUMNS.values()):
    numbers = dict.fromkeys(("rows", "bias", "out"), "*bf16") | dict(weight=kind, scale="*fp32")
    constants = dict(N=4096, K=4096, HAS_BIAS=False, HAS_SCALE=kind != "*bf16", TILE_ROWS=TILE_ROWS,
                     TILE_COLUMNS=columns, TILE_DEPTH=TILE_DEPTH[2])
    types, options = numbers | dict(num_rows="i32"), dict(num_warps=NUM_WARPS, num_stages=NUM_STAGES)
    compiled = compile_for_hopper(multiply_rows, types, constants, aligned=numbers, **options)
    ptx = compiled.asm["ptx"]
    print("wgmma" in ptx, "cp.async" in ptx, ".local" in ptx, compiled.metadata.shared)
"""


def test_compiles_for_hopper_onto_tensor_cores_without_spills(output_for_hopper):
    for line in output_for_hopper(COMPILE).splitlines():
        tensor_cores, pipelined, spills, shared = line.split()
        assert (tensor_cores, pipelined, spills) == ("True", "True", "False")
        assert int(shared) < 114 * 1024  # two programs per processor of 228 KiB
