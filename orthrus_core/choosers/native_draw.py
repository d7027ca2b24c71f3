"""Drawing on CPUs through the compiled kernel `draw.cpp`."""

import ctypes
import functools
from pathlib import Path

import torch
from torch import Tensor

from orthrus_core.choosers.masks import RowMasks
from orthrus_core.choosers.sampling import LINES, RowSampling
from orthrus_core.native import build_library, load_library

SOURCE = Path(__file__).with_name("draw.cpp")
DTYPES = (torch.float32, torch.bfloat16)
OPTIONS = ("-ffp-contract=off",)  # noise and weights are those of the slow form to the bit
_pointer, _long, _int = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
PROTOTYPE = (
    *(_pointer, _long, _long, _int),  # logits, their row stride, V, whether they are bfloat16
    *(_pointer, _pointer, _long),  # positions, packed, R
    *(_pointer, _pointer, _long),  # mask bits, their line for each row, W
    *(_int, _pointer, _pointer),  # threads, ids, filtered scores
)


class NativeDraw:
    """Calls the kernel; see `Draw`."""

    name = "native"

    def __init__(self) -> None:
        """Compile the kernel, or find it on disk.

        Raises:
            KernelError: no compiler, or one that refuses.
        """
        self._library = build_library("draw", SOURCE, OPTIONS)
        _function(self._library)

    def __call__(
        self,
        logits: Tensor,
        positions: Tensor,
        sampling: RowSampling,
        masks: RowMasks | None = None,
        *,
        keep_scores: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """See `Draw`."""
        logits = logits if logits.dtype in DTYPES else logits.float()
        ids, scores = torch.ops.orthrus.draw(
            logits,
            positions,
            sampling.packed,
            masks.bits if masks else None,
            masks.lines(len(logits)) if masks else None,
            keep_scores,
            self._library,
        )
        return ids, scores if keep_scores else None


@functools.cache
def _function(path: str):
    function = load_library(path).draw
    function.argtypes, function.restype = PROTOTYPE, None
    return function


def _draw(
    logits: Tensor,
    positions: Tensor,
    packed: Tensor,
    mask_bits: Tensor | None,
    mask_lines: Tensor | None,
    keep_scores: bool,
    library: str,
) -> tuple[Tensor, Tensor]:
    """`NativeDraw` as one operator: ids (R,) int64, scores (R, V) float32 or of no row."""
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    is_half, R, V = logits.dtype == torch.bfloat16, packed.shape[1], logits.shape[1]
    assert logits.dtype in DTYPES
    assert positions.dtype == packed.dtype == torch.int64
    assert len(positions) == len(logits)
    assert packed.shape[0] == len(LINES)
    packed, positions = packed.contiguous(), positions.contiguous()
    ids = torch.empty(R, dtype=torch.int64)
    scores = torch.empty(R if keep_scores else 0, V)
    _function(library)(
        *(logits.data_ptr(), logits.stride(0), V, is_half),
        *(positions.data_ptr(), packed.data_ptr(), R),
        *(_address(mask_bits), _address(mask_lines), 0 if mask_bits is None else mask_bits.shape[1]),
        *(torch.get_num_threads(), ids.data_ptr(), scores.data_ptr() if keep_scores else None),
    )
    return ids, scores


def _address(tensor: Tensor | None) -> int | None:
    if tensor is None:
        return None
    assert tensor.is_contiguous()
    return tensor.data_ptr()


torch.library.define(
    "orthrus::draw",
    "(Tensor logits, Tensor positions, Tensor packed, Tensor? mask_bits, Tensor? mask_lines,"
    " bool keep_scores, str library) -> (Tensor, Tensor)",
)
torch.library.impl("orthrus::draw", "cpu", _draw)


@torch.library.register_fake("orthrus::draw")
def _(logits: Tensor, positions, packed, mask_bits, mask_lines, keep_scores, library):
    R, V = packed.shape[1], logits.shape[1]
    return packed.new_empty(R), logits.new_empty(R if keep_scores else 0, V, dtype=torch.float32)
