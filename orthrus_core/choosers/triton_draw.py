"""Drawing on CUDA through a Triton kernel: a program per row that samples."""

import torch
from torch import Tensor

from orthrus_core.choosers.masks import RowMasks
from orthrus_core.choosers.sampling import RowSampling

BLOCK = 1024  # tokens that a program looks at at once; changes no bits
NUM_WARPS = 8


class TritonDraw:
    """Calls the kernel; see `Draw`. No host waits for it."""

    name = "triton"

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
        from orthrus_core.choosers.triton_kernels import draw_rows  # triton is optional

        logits = logits if logits.stride(1) == 1 else logits.contiguous()
        packed, positions = sampling.packed.contiguous(), positions.contiguous()
        R, V = packed.shape[1], logits.shape[1]
        bits, lines = (masks.bits, masks.lines(len(logits))) if masks else (packed, packed)
        ids = packed.new_empty(R)
        scores = torch.empty(R if keep_scores else 0, V, dtype=torch.float32, device=logits.device)
        draw_rows[(R,)](
            logits, logits.stride(0), positions, packed, R, bits, lines, bits.shape[1], ids, scores,
            V=V, HAS_MASKS=masks is not None, KEEP_SCORES=keep_scores, BLOCK=BLOCK,
            num_warps=NUM_WARPS, enable_fp_fusion=False,
        )  # fmt: skip
        return ids, scores if keep_scores else None
