"""Which token comes next: the likeliest one, or one drawn with noise that both views share."""

from torch import Tensor

from orthrus_core.choosers.draw import draw_for
from orthrus_core.choosers.masks import RowMasks
from orthrus_core.choosers.sampling import RowSampling
from orthrus_core.models.readout import Readout


def choose(
    readout: Readout,
    positions: Tensor,
    sampling: RowSampling | None,
    masks: RowMasks | None = None,
    *,
    keep_scores: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Choose from what the AR view says: the likeliest id, or a drawn one in rows that sample.

    Args:
        positions: (T,) int64, positions of the rows; each chooses the token of the next one.
        sampling: None: every row is greedy.
        masks: of the rows that a grammar binds; None: it binds none.
        keep_scores: return the scores that were drawn from.
    Returns:
        choice ids (T,) int64, their log-probabilities (T,) float32 before masks, temperature and
        filters, and the scores (R, V) if they are kept and a row samples.
    """
    if sampling is None and masks is None:
        return readout.ids, readout.logprobs, None
    choice_ids = readout.ids if masks is None else _likeliest_allowed(readout, masks)
    scores = None
    if sampling is not None:
        draw = draw_for(positions.device.type)
        drawn, scores = draw(readout.logits, positions, sampling, masks, keep_scores=keep_scores)
        choice_ids = choice_ids.index_copy(0, sampling.rows, drawn)
    return choice_ids, readout.logprobs_of(choice_ids), scores


def _likeliest_allowed(readout: Readout, masks: RowMasks) -> Tensor:
    """Return `readout.ids`, in rows with a mask the likeliest one that it allows."""
    return readout.ids.index_copy(0, masks.rows, masks.apply(readout.logits).max(dim=-1).indices)
