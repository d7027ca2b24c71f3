"""Drawing on CPUs through the compiled kernel `draw.cpp`."""

from pathlib import Path

import torch
from torch import Tensor

from orthrus_core.choosers.masks import RowMasks
from orthrus_core.choosers.sampling import LINES, RowSampling
from orthrus_core.native import INT, LONG, POINTER, build_library, load_function

SOURCE = Path(__file__).with_name("draw.cpp")
DTYPES = (torch.float32, torch.bfloat16)
PROTOTYPE = (
    *(POINTER, LONG, LONG, INT),  # logits, their row stride, V, whether they are bfloat16
    *(POINTER, POINTER, LONG),  # positions, packed, R
    *(POINTER, POINTER, LONG),  # mask bits, their line for each row, W
    *(INT, POINTER, POINTER),  # threads, ids, filtered scores
)


class NativeDraw:
    """Calls the kernel; see `Draw`."""

    name = "native"

    def __init__(self) -> None:
        """Compile the kernel, or find it on disk.

        Raises:
            KernelError: no compiler, or one that refuses.
        """
        self._draw = load_function(build_library("draw", SOURCE), "draw", PROTOTYPE)

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
        logits = logits if logits.stride(1) == 1 else logits.contiguous()
        packed, positions = sampling.packed.contiguous(), positions.contiguous()
        R, V = packed.shape[1], logits.shape[1]
        assert positions.dtype == packed.dtype == torch.int64
        assert len(positions) == len(logits)
        assert len(packed) == len(LINES)
        bits, lines = (masks.bits, masks.lines(len(logits))) if masks else (None, None)
        ids = torch.empty(R, dtype=torch.int64)
        scores = torch.empty(R, V) if keep_scores else None
        self._draw(
            *(logits.data_ptr(), logits.stride(0), V, logits.dtype == torch.bfloat16),
            *(positions.data_ptr(), packed.data_ptr(), R),
            *(_address(bits), _address(lines), 0 if bits is None else bits.shape[1]),
            *(torch.get_num_threads(), ids.data_ptr(), _address(scores)),
        )
        return ids, scores


def _address(tensor: Tensor | None) -> int | None:
    if tensor is None:
        return None
    assert tensor.is_contiguous()
    return tensor.data_ptr()
