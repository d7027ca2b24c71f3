"""Which token a sampling row draws, and what computes it on a device."""

import functools
import logging
from typing import Protocol

from torch import Tensor

from orthrus_core.choosers.filters import filter_logits
from orthrus_core.choosers.masks import RowMasks
from orthrus_core.choosers.native_draw import NativeDraw
from orthrus_core.choosers.noise import gumbel_noise
from orthrus_core.choosers.sampling import RowSampling
from orthrus_core.native import KernelError

logger = logging.getLogger(__name__)


class Draw(Protocol):
    """Draws the tokens of the rows that sample: the largest of filtered logits plus noise, of equal ones the
    lowest id.

    All give the same ids and scores to the bit; which ones is decided by a row's own logits, mask, parameters
    and position. A row of NaN or infinite logits gets some id; its log-probability tells of them.
    """

    name: str

    def __call__(
        self,
        logits: Tensor,
        positions: Tensor,
        sampling: RowSampling,
        masks: RowMasks | None = None,
        *,
        keep_scores: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Draw.

        Args:
            logits: (T, V) of any float dtype.
            positions: (T,) int64, positions of the rows; each draws the token of the next one.
            sampling: which rows draw, and how.
            masks: of the rows that a grammar binds; None: it binds none.
            keep_scores: return the scores too.
        Returns:
            (R,) int64, and (R, V) float32: tempered and filtered logits, -inf where a token is excluded.
        """
        ...


class PlainDraw:
    """The slow form in torch's own operations; see `Draw`."""

    name = "plain"

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
        own = logits.float()
        if masks is not None:
            own = own.index_copy(0, masks.rows, masks.apply(logits))
        scores = filter_logits(own[sampling.rows], sampling.filters)
        next_positions = positions[sampling.rows] + 1
        noise = gumbel_noise(sampling.seeds, sampling.samples, next_positions, vocab_size=scores.shape[-1])
        return (scores + noise).argmax(dim=-1), scores if keep_scores else None


@functools.cache
def draw_for(device_type: str) -> Draw:
    """Return the fastest way to draw on a device, made once per process.

    Where that is the plain one, a warning says so: its tokens are the same.
    """
    try:
        if device_type == "cpu":
            return NativeDraw()
        reason = f"there is no kernel for {device_type} devices"
    except KernelError as error:
        reason = str(error)
    logger.warning("sampling=plain, the same tokens but slower than a compiled kernel, because %s", reason)
    return PlainDraw()
