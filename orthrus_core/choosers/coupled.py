"""Coupled sampling: both views draw with the same noise, and the longest agreeing prefix stands.

A row with a temperature takes the largest of filtered logits plus noise; the noise is a function of seed,
sample, position and token. So drafts agree with what plain AR decoding would draw, as greedy ones do.
"""

from collections.abc import Iterable

from torch import Tensor

from orthrus_core.choosers.choice import choose
from orthrus_core.choosers.masks import RowMasks
from orthrus_core.choosers.sampling import RowSampling, sampling_of
from orthrus_core.engine.layout import ChoosingRows, StepLayout
from orthrus_core.engine.step import Choices
from orthrus_core.models.readout import Readout


class Coupled:
    """A `Chooser` of steps in which some requests sample; the others are greedy.

    Attributes:
        sampling: the rows of the last forward that sample.
        scores: (R, V) float32 that those drew from, -inf where a token is excluded; None if not kept.
    """

    sampling: RowSampling | None = None
    scores: Tensor | None = None

    def __init__(self, *, keep_scores: bool = False):
        """Start a step.

        Args:
            keep_scores: keep what was drawn from: the rejection rule needs it.
        """
        self._keep_scores = keep_scores

    def propose(self, step: StepLayout, readout: Readout, positions: Tensor) -> Tensor:
        """See `Chooser`."""
        return self.draw(step.drafting(), readout, positions).ids[: len(step.target_rows)]

    def propose_ahead(self, step: StepLayout, readout: Readout, positions: Tensor) -> Tensor:
        """See `Chooser`."""
        return Coupled.propose(self, step, readout, positions)

    def choose(
        self, step: StepLayout, readout: Readout, positions: Tensor, draft_ids: Tensor | None
    ) -> Choices:
        """See `Chooser`."""
        return self.draw(step.verifying(), readout, positions)

    def draw(
        self,
        choosing: Iterable[ChoosingRows],
        readout: Readout,
        positions: Tensor,
        masks: RowMasks | None = None,
    ) -> Choices:
        """Return what the rows of a forward choose; see `choice.choose`."""
        self.sampling = sampling_of(choosing, positions.device)
        ids, logprobs, self.scores = choose(
            readout, positions, self.sampling, masks, keep_scores=self._keep_scores
        )
        return Choices(ids, logprobs)
