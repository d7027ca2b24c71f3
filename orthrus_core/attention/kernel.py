"""The CPU attention kernel: compiled for one shape by the machine's C++ compiler, kept on disk, called."""

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from orthrus_core.attention.rows import LINES
from orthrus_core.errors import ConfigError
from orthrus_core.native import INT, LONG, POINTER, KernelError, build_library, load_function, load_library

SOURCE = Path(__file__).with_name("native.cpp")
CELLS_PER_VECTOR = 16
PROTOTYPE = (
    *(POINTER, LONG, LONG) * 3,  # q, k, v, each with its strides
    *(POINTER, POINTER, LONG),  # keys, values, Hkv
    *(POINTER,) * 5,  # cells, slots, limits, positions, page tables
    *(LONG,) * 3,  # pages per slot, rows, window
    *(ctypes.c_float, ctypes.c_float, INT, POINTER),  # scaling, softcap, threads, out
)


@dataclass(frozen=True)
class KernelShape:
    """What the kernel is compiled for.

    Attributes:
        head_dim: Dh.
        repeats: query heads per K/V head.
        page_size: cells of a page.
        dtype: of queries, keys, values and output.
    """

    head_dim: int
    repeats: int
    page_size: int
    dtype: torch.dtype

    def check(self) -> None:
        """Raise KernelError if the kernel is not written for this shape."""
        if self.dtype not in (torch.float32, torch.bfloat16):
            raise KernelError(f"dtype must be float32 or bfloat16, got {self.dtype}")
        for name in ("head_dim", "page_size"):
            if getattr(self, name) % CELLS_PER_VECTOR:
                raise KernelError(
                    f"{name} must be a multiple of {CELLS_PER_VECTOR}, got {getattr(self, name)}"
                )

    @property
    def macros(self) -> tuple[str, ...]:
        """The shape as compiler options."""
        sizes = (
            f"-DHEAD_DIM={self.head_dim}",
            f"-DPAGE_SIZE={self.page_size}",
            f"-DREPEATS={self.repeats}",
        )
        return (*sizes, "-DBF16") if self.dtype == torch.bfloat16 else sizes


def build_kernel(shape: KernelShape) -> str:
    """Return the path of the compiled kernel, compiling it where the cache has none (about a second).

    Raises:
        KernelError: no compiler, a compiler that refuses, or a shape the kernel is not written for.
    """
    shape.check()
    return build_library("paged_attend", SOURCE, shape.macros)


@functools.cache
def load_kernel(path: str) -> tuple[Any, KernelShape]:
    """Return the function of a compiled kernel and what it is compiled for, loaded once per process."""
    head_dim, repeats, page_size, num_bytes = (LONG * 4).in_dll(load_library(path), "compiled_for")
    dtype = torch.float32 if num_bytes == 4 else torch.bfloat16
    return load_function(path, "paged_attend", PROTOTYPE), KernelShape(head_dim, repeats, page_size, dtype)


def paged_attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: Tensor,
    values: Tensor,
    packed: Tensor,
    page_tables: Tensor,
    scaling: float,
    window: int,
    softcap: float,
    kernel: str,
) -> Tensor:
    """Write T rows' keys and values to their cells, then attend up to each row's limit.

    Args:
        q: (T, H, Dh), the last dimension contiguous, as in k and v.
        k: (T, Hkv, Dh).
        v: (T, Hkv, Dh).
        keys: one layer's pages, (num_pages, Hkv, Dh, page_size); in bfloat16 two neighbours of Dh lie side by
            side for every cell.
        values: one layer's pages, (num_pages, Hkv, page_size, Dh).
        packed: (5, T) int64, see `TokenRows`; a row that sees nothing gets zeros.
        page_tables: (slots, pages per sequence) int64.
        scaling: factor on the scores.
        window: cells up to its own that a row sees, 0: all.
        softcap: c in c * tanh(score / c), 0: not taken.
        kernel: path as `build_kernel` returned it.
    Returns:
        (T, H, Dh), contiguous.
    Raises:
        ConfigError: a tensor of another dtype, shape or layout: the kernel would read past its end.
    """
    function, shape = load_kernel(kernel)
    _check_tensors(shape, (q, k, v), (keys, values, packed, page_tables))
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    out = torch.empty(q.shape, dtype=q.dtype)
    T = q.shape[0]
    cells, slots, limits, positions = (packed.data_ptr() + 8 * T * line for line in range(1, len(LINES)))
    function(
        *(argument for x in (q, k, v) for argument in (x.data_ptr(), x.stride(0), x.stride(1))),
        *(keys.data_ptr(), values.data_ptr(), keys.shape[1]),
        *(cells, slots, limits, positions, page_tables.data_ptr()),
        *(page_tables.shape[1], T, window),
        *(scaling, softcap, torch.get_num_threads(), out.data_ptr()),
    )
    return out


def _check_tensors(shape: KernelShape, rows: Sequence[Tensor], fixed: Sequence[Tensor]) -> None:
    """Raise ConfigError for a tensor that the kernel would read past its end or take for other numbers.

    Args:
        shape: what the kernel is compiled for.
        rows: q, k and v, of any strides.
        fixed: keys, values, packed and page tables, which must be contiguous.
    """
    T, (num_pages, Hkv), dtype = len(rows[0]), fixed[0].shape[:2], shape.dtype
    Dh, page_size = shape.head_dim, shape.page_size
    expected = (
        ("q", dtype, (T, Hkv * shape.repeats, Dh)),
        ("k", dtype, (T, Hkv, Dh)),
        ("v", dtype, (T, Hkv, Dh)),
        ("keys", dtype, (num_pages, Hkv, Dh, page_size)),
        ("values", dtype, (num_pages, Hkv, page_size, Dh)),
        ("packed", torch.int64, (len(LINES), T)),
        ("page_tables", torch.int64, (len(fixed[-1]), fixed[-1].shape[-1])),
    )
    for tensor, (name, dtype, sizes) in zip((*rows, *fixed), expected, strict=True):
        if tensor.dtype != dtype or tensor.shape != sizes:
            found = f"{tensor.dtype} {tuple(tensor.shape)}"
            raise ConfigError(
                f"attention needs {name} of {dtype} {sizes}, got {found}: is the whole model of one dtype?"
            )
    for tensor, (name, _, _) in zip(fixed, expected[len(rows) :], strict=True):
        if not tensor.is_contiguous():
            raise ConfigError(f"attention needs {name} contiguous, got strides {tensor.stride()}")
