"""Choosing under a grammar: every row among what may stand at its place."""

import numpy as np
import torch
from torch import Tensor

from orthrus_core.choosers.choice import choose
from orthrus_core.choosers.coupled import Coupled
from orthrus_core.choosers.grammar_state import walk_over
from orthrus_core.choosers.masks import RowMasks, allows
from orthrus_core.choosers.sampling import sampling_of
from orthrus_core.engine.layout import ChoosingRows, StepLayout
from orthrus_core.engine.step import Choices
from orthrus_core.models.readout import Readout


class UnderGrammar(Coupled):
    """A `Chooser` of steps in which a grammar binds some sequences.

    The view proposes all drafts of a block at once, but which tokens may stand at one place depends on the
    draft before it. So the first draft is chosen under its mask, the grammar goes one token on, the second
    one is chosen from the same forward under the next mask, and so on. A proposal that the mask allows stays:
    it is the best of more tokens. (With top-k, top-p or min-p it need not be, but a draft may be anything.)
    The others are chosen again, those of one place together.
    """

    def __init__(self, *, keep_scores: bool = False):
        """Start a step.

        Args:
            keep_scores: choose every sampled draft again and put its scores where they were drawn from: the
                rejection rule needs them.
        """
        super().__init__(keep_scores=keep_scores)
        self._walked: dict[int, list[np.ndarray]] = {}  # masks of a work's anchor and drafts, by its line

    def propose(self, step: StepLayout, readout: Readout, positions: Tensor) -> Tensor:
        """See `Chooser`."""
        proposals = super().propose(step, readout, positions)
        blocks = [rows for rows in step.drafting() if rows.sequence.constraint is not None]
        if not blocks:
            return proposals
        ids = proposals.tolist()
        self._walk(blocks, ids, readout, positions)
        return torch.tensor(ids).to(proposals.device)

    def choose(
        self, step: StepLayout, readout: Readout, positions: Tensor, draft_ids: Tensor | None
    ) -> Choices:
        """See `Chooser`."""
        masks = self._row_masks(step, draft_ids, positions.device)
        return self.draw(step.verifying(), readout, positions, masks)

    def _walk(self, blocks: list[ChoosingRows], ids: list[int], readout: Readout, positions: Tensor) -> None:
        """Walk the grammars of blocks over their drafts `ids`, one place after the other; drafts change."""
        for block in blocks:
            block.sequence.constraint.begin_walk()
        walking = blocks
        for offset in range(max(block.count for block in blocks)):
            walking = [block for block in walking if offset < block.count]
            again = [
                block
                for block in walking
                if not allows(block.sequence.constraint.mask, ids[block.first + offset])
                or (self._keep_scores and block.sequence.params.temperature > 0)
            ]
            if again:
                chosen = self._choose_again(again, offset, readout, positions)
                for block, token_id in zip(again, chosen, strict=True):
                    ids[block.first + offset] = token_id
            walking = [
                block for block in walking if block.sequence.constraint.step(ids[block.first + offset])
            ]
        for block in blocks:
            self._walked[block.line] = block.sequence.constraint.end_walk()

    def _choose_again(
        self, blocks: list[ChoosingRows], offset: int, readout: Readout, positions: Tensor
    ) -> list[int]:
        """Return the token of each block at one place under its mask."""
        rows = torch.tensor([block.first + offset for block in blocks]).to(positions.device)
        sampling = sampling_of(
            [ChoosingRows(block.line, block.sequence, row, 1) for row, block in enumerate(blocks)],
            positions.device,
        )
        masks = RowMasks.of(
            range(len(blocks)), [block.sequence.constraint.mask for block in blocks], positions.device
        )
        own = Readout(*(part[rows] for part in readout))
        ids, _, scores = choose(own, positions[rows], sampling, masks, keep_scores=self._keep_scores)
        if scores is not None and sampling is not None:
            self._put_scores(rows[sampling.rows], scores)
        return ids.tolist()

    def _put_scores(self, rows: Tensor, scores: Tensor) -> None:
        """Write scores of rows over those that were drawn from without masks."""
        assert self.scores is not None
        assert self.sampling is not None
        places = torch.searchsorted(self.sampling.rows.contiguous(), rows)  # its rows ascend
        self.scores.index_copy_(0, places, scores)

    def _row_masks(self, step: StepLayout, draft_ids: Tensor | None, device: torch.device) -> RowMasks | None:
        """Return the masks of the verify forward's rows that a grammar binds, up to the first draft that ends
        the text or is refused; None where it binds none.
        """
        rows: list[int] = []
        masks: list[np.ndarray] = []
        for line, work in enumerate(step.works):
            grammar = work.sequence.constraint
            if grammar is None or not work.has_anchor:
                continue
            own = self._walked.get(line)
            if own is None:  # drafted by something that knows no grammar, or not at all
                own = walk_over(grammar, step.drafts_of(line, draft_ids))
            first = int(step.choices[line])
            rows += range(first, first + len(own))
            masks += own
        return RowMasks.of(rows, masks, device) if rows else None
