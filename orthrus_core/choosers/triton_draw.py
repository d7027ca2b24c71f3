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
        ids, scores = draw(
            logits,
            positions,
            sampling.packed,
            masks.bits if masks else None,
            masks.lines(len(logits)) if masks else None,
            keep_scores,
        )
        return ids, scores if keep_scores else None


@torch.library.custom_op("orthrus::triton_draw", mutates_args=())
def draw(
    logits: Tensor,
    positions: Tensor,
    packed: Tensor,
    mask_bits: Tensor | None,
    mask_lines: Tensor | None,
    keep_scores: bool,
) -> tuple[Tensor, Tensor]:
    """`TritonDraw` as one operator: ids (R,) int64, scores (R, V) float32 or of no row."""
    from orthrus_core.choosers.triton_kernels import draw_rows  # triton is optional

    R, V = packed.shape[1], logits.shape[1]
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    packed, positions = packed.contiguous(), positions.contiguous()
    ids = packed.new_empty(R)
    scores = torch.empty(R if keep_scores else 0, V, dtype=torch.float32, device=logits.device)
    has_masks = mask_bits is not None
    draw_rows[(R,)](
        logits, logits.stride(0), positions, packed, R,
        mask_bits if has_masks else packed, mask_lines if has_masks else packed,
        mask_bits.shape[1] if mask_bits is not None else 0, ids, scores,
        V=V, HAS_MASKS=has_masks, KEEP_SCORES=keep_scores, BLOCK=BLOCK,
        num_warps=NUM_WARPS, enable_fp_fusion=False,
    )  # fmt: skip
    return ids, scores


@draw.register_fake
def _shapes(logits: Tensor, _: Tensor, packed: Tensor, __: object, ___: object, keep_scores: bool):
    R, V = packed.shape[1], logits.shape[1]
    return packed.new_empty(R), logits.new_empty(R if keep_scores else 0, V, dtype=torch.float32)
