"""Linear layers on CPUs through a kernel compiled at first use.

It reads weights as they lie in the model, so that nothing is packed, copied or out of date.
"""

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from orthrus_core.linear.backend import has_plain_weights
from orthrus_core.linear.quantised import plain_product
from orthrus_core.native import INT, LONG, POINTER, KernelError, build_library, load_function, load_library

SOURCE = Path(__file__).with_name("native.cpp")
MACROS: dict[torch.dtype, tuple[str, ...]] = {torch.float32: (), torch.bfloat16: ("-DBF16",)}
BYTE_KINDS = {torch.int8: 1, torch.float8_e4m3fn: 2}  # of weights, as the kernel numbers them
PROTOTYPE = (*(POINTER,) * 5, *(LONG,) * 3, INT, INT)


def build_kernel(dtype: torch.dtype) -> str:
    """Return the path of the kernel for a dtype.

    Raises:
        KernelError: no compiler, a compiler that refuses, or a dtype the kernel is not written for.
    """
    if dtype not in MACROS:
        raise KernelError(f"dtype must be float32 or bfloat16, got {dtype}")
    return build_library("row_linear", SOURCE, MACROS[dtype])


@functools.cache
def _load(path: str) -> tuple[Any, torch.dtype]:
    """Return the function of a compiled kernel and the dtype that it is compiled for."""
    num_bytes = LONG.in_dll(load_library(path), "bytes_of_a_number").value
    dtype = torch.float32 if num_bytes == 4 else torch.bfloat16
    return load_function(path, "row_linear", PROTOTYPE), dtype


def row_linear(
    rows: Tensor, weight: Tensor, bias: Tensor | None, kernel: str, scale: Tensor | None = None
) -> Tensor:
    """Multiply as `LinearBackend.multiply`; each row's bits depend on that row and the weights alone.

    Tensors that the kernel would read past their end or take for other numbers go to torch.

    Args:
        rows: (..., K).
        weight: (N, K).
        bias: (N,) or None.
        kernel: path as `build_kernel` returned it.
        scale: (N,) of a weight of bytes, or None.
    Returns:
        (..., N), contiguous.
    """
    function, dtype = _load(kernel)
    N, K = weight.shape
    kind = 0 if scale is None else BYTE_KINDS[weight.dtype]
    fits = rows.dtype == dtype and rows.shape[-1] == K and weight.is_contiguous()
    fits = fits and (weight.dtype == dtype if scale is None else scale.shape == (N,))
    if not fits or (bias is not None and (bias.dtype != dtype or bias.shape != (N,))):
        return plain_product(rows, weight, bias, scale)
    rows = rows.contiguous()
    out = torch.empty(*rows.shape[:-1], N, dtype=dtype)
    function(
        *(rows.data_ptr(), weight.data_ptr(), None if scale is None else scale.data_ptr()),
        *(None if bias is None else bias.data_ptr(), out.data_ptr()),
        *(rows.numel() // K, N, K, kind, torch.get_num_threads()),
    )
    return out


torch.library.define(
    "orthrus::row_linear",
    "(Tensor rows, Tensor weight, Tensor? bias, str kernel, Tensor? scale=None) -> Tensor",
)
torch.library.impl("orthrus::row_linear", "cpu", row_linear)


@torch.library.register_fake("orthrus::row_linear")
def _(rows: Tensor, weight: Tensor, bias: Tensor | None, kernel: str, scale: Tensor | None = None) -> Tensor:
    return rows.new_empty(*rows.shape[:-1], len(weight))


class NativeLinear:
    """Calls the kernel; see `LinearBackend`."""

    name = "native"

    def __init__(self, dtype: torch.dtype):
        """Compile the kernel for a dtype.

        Raises:
            KernelError: it cannot be had.
        """
        self._kernel = build_kernel(dtype)
        self._dtype = dtype
        _load(self._kernel)

    def takes(self, layer: nn.Linear) -> bool:
        """See `LinearBackend`."""
        return has_plain_weights(layer, dtype=self._dtype, device_type="cpu")

    def multiply(
        self, rows: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor | None = None
    ) -> Tensor:
        """See `LinearBackend`; past the dispatcher where nobody traces, which takes 3 us of every call."""
        if torch.compiler.is_compiling():
            return torch.ops.orthrus.row_linear(rows, weight, bias, self._kernel, scale)
        return row_linear(rows, weight, bias, self._kernel, scale)
