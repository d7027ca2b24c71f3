"""Drafts under a grammar: the diffusion view's choices, token by token, among what may come next."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from orthrus_core.decoding.choice import Readout, RowSampling, choose, sampling_of
from orthrus_core.decoding.grammar import GrammarState
from orthrus_core.decoding.masks import RowMasks, allows
from orthrus_core.decoding.scheduler import Work


@dataclass(frozen=True)
class BoundBlock:
    """A block of drafts that a grammar binds, and its first row in the draft forward."""

    work: Work
    grammar: GrammarState
    first_row: int


def bound_blocks(works: list[Work], first_rows: Iterable[int]) -> list[BoundBlock]:
    """Return the blocks of drafts that a grammar binds; `first_rows` of all works."""
    return [
        BoundBlock(work, work.sequence.grammar, row)
        for work, row in zip(works, first_rows, strict=True)
        if work.num_drafts and work.sequence.grammar is not None
    ]


class MaskedDraft:
    """Walks the grammars of a step's blocks, one draft of each at a time.

    The view proposes all drafts of a block at once, but which tokens may stand at one place depends on the
    draft before it. So the first draft is chosen under its mask, the grammar goes one token on, the second
    one is chosen from the same forward under the next mask, and so on. A proposal that the mask allows stays:
    it is the best of more tokens. (With top-k, top-p or min-p it need not be, but a draft may be anything.)
    The others are chosen again, those of one place together.
    """

    def __init__(
        self,
        readout: Readout,
        positions: Tensor,
        proposals: Tensor,
        scores: Tensor | None,
        sampling: RowSampling | None,
    ):
        """Take a draft forward and what was proposed without masks.

        Args:
            positions, proposals: (T,) int64.
            scores: (R, V) float32 of the sampling rows, if any.
        """
        self._readout = readout
        self._positions = positions
        self._proposals = proposals
        self._scores = scores
        self._sampling = sampling

    def choose(self, blocks: list[BoundBlock], *, with_odds: bool) -> Tensor:
        """Return the proposals (T,) with the blocks' own under their grammars; their works get their masks.

        Args:
            with_odds: choose every sampled draft again and put its scores where they were drawn from: the
                rejection rule needs them.
        """
        ids = self._proposals.tolist()
        for block in blocks:
            block.grammar.begin_walk()
        walking = blocks
        for offset in range(max(block.work.num_drafts for block in blocks)):
            walking = [block for block in walking if offset < block.work.num_drafts]
            again = [
                block
                for block in walking
                if not allows(block.grammar.mask, ids[block.first_row + offset])
                or (with_odds and block.work.sequence.params.temperature)
            ]
            if again:
                for block, token_id in zip(again, self._choose_again(again, offset, with_odds), strict=True):
                    ids[block.first_row + offset] = token_id
            walking = [block for block in walking if block.grammar.step(ids[block.first_row + offset])]
        for block in blocks:
            block.work.masks = block.grammar.end_walk()
        return torch.tensor(ids).to(self._proposals.device)

    def _choose_again(self, blocks: list[BoundBlock], offset: int, with_odds: bool) -> list[int]:
        """Return the token of each block at one place under its mask."""
        device = self._proposals.device
        rows = torch.tensor([block.first_row + offset for block in blocks]).to(device)
        sampling = sampling_of(
            [(block.work.sequence, line, 1) for line, block in enumerate(blocks)],
            token_budget=len(blocks),
            device=device,
        )
        readout = Readout(*(part[rows] for part in self._readout))
        masks = RowMasks.of(range(len(blocks)), [block.grammar.mask for block in blocks], device)
        ids, _, scores = choose(readout, self._positions[rows], sampling, masks)
        if with_odds and scores is not None and sampling is not None:
            self._keep_scores(rows[sampling.rows], scores)
        return ids.tolist()

    def _keep_scores(self, rows: Tensor, scores: Tensor) -> None:
        """Write scores of rows over those that were drawn from without masks."""
        assert self._scores is not None
        assert self._sampling is not None
        places = torch.searchsorted(self._sampling.rows.contiguous(), rows)  # its rows ascend
        self._scores.index_copy_(0, places, scores)
