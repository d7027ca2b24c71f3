"""Which token a sampling row draws, and what computes it on a device."""

import functools
import itertools
import logging
from typing import Protocol

import torch
from torch import Tensor

from orthrus_core.choosers.filters import filter_logits
from orthrus_core.choosers.masks import RowMasks
from orthrus_core.choosers.native_draw import NativeDraw
from orthrus_core.choosers.noise import gumbel_noise
from orthrus_core.choosers.sampling import RowSampling, pack
from orthrus_core.choosers.triton_draw import TritonDraw
from orthrus_core.errors import reason_of
from orthrus_core.native import KernelError, has_triton
from orthrus_core.request import SamplingParams

logger = logging.getLogger(__name__)

TRIAL_RULES = (
    SamplingParams(temperature=0.7, top_p=0.95),
    SamplingParams(temperature=1.0),
    SamplingParams(temperature=1.0, top_k=40),
    SamplingParams(temperature=1.3, min_p=0.02),
)


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
        if device_type == "cuda":
            return _tried(TritonDraw(), torch.device("cuda"))
        reason = f"there is no kernel for {device_type} devices"
    except KernelError as error:
        reason = str(error)
    logger.warning("sampling=plain, the same tokens but slower than a compiled kernel, because %s", reason)
    return PlainDraw()


def _tried(draw: Draw, device: torch.device) -> Draw:
    """Return what draws the same as the plain form in a trial call.

    Raises:
        KernelError: it does not, or cannot be had; the message says why.
    """
    if not has_triton():
        raise KernelError("triton is not installed, run: pip install triton")
    logits = torch.randn(64, 1500, generator=torch.Generator().manual_seed(0)).mul(3).to(device)
    positions = torch.arange(64, device=device)
    sampling = trial_sampling(len(logits), device)
    try:
        ids, _ = draw(logits, positions, sampling)
    except Exception as refusal:  # whatever the library below raises where it cannot run
        raise KernelError(f"{draw.name}: {reason_of(refusal)}") from refusal
    if not torch.equal(ids, PlainDraw()(logits, positions, sampling)[0]):
        raise KernelError(f"{draw.name}: other tokens than the plain form in the trial call")
    return draw


def trial_sampling(num_rows: int, device: torch.device) -> RowSampling:
    """Return what the first R rows of a forward need to draw under `TRIAL_RULES`, in rotation."""
    rules = itertools.cycle(TRIAL_RULES)
    packed = pack((row, row % 3, rule) for row, rule in zip(range(num_rows), rules, strict=False))
    return RowSampling(torch.from_numpy(packed).to(device))


def trial_choices(logits: Tensor, positions: Tensor) -> Tensor:
    """Return what rows (T, V) draw under rules that their positions alone pick, (T,) int64.

    So rows of the same position and the same logits give the same token in a forward of any T; a start-up
    check may hold that against forwards of two T.
    """
    packed = trial_sampling(len(TRIAL_RULES), logits.device).packed[:, positions % len(TRIAL_RULES)]
    packed[0] = torch.arange(len(logits), device=logits.device)
    return draw_for(logits.device.type)(logits, positions, RowSampling(packed))[0]
