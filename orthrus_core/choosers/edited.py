"""Choosing from edited logits: penalties, biases and forbidden tokens, ahead of temperature and filters.

The edits of a row depend on the tokens before its place alone, drafts of its block among them, as if every
token had been chosen by itself. So the text stays that of plain AR decoding.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from orthrus_core.choosers.masks import RowMasks
from orthrus_core.engine.layout import ChoosingRows, StepLayout
from orthrus_core.engine.step import Choices, Chooser
from orthrus_core.models.readout import Readout
from orthrus_core.transfer import to_device

EXCLUDED = float("-inf")


@dataclass(frozen=True)
class RowEdits:
    """The edits of one forward, on the device.

    Attributes:
        rows: (E,) int64, the rows that have any.
        places: (N,) int64, of the changes in the flat logits, each place once.
        changes: (4, N) float32, their bias, scale, frequency and presence penalty.
        forbidden: (F,) int64, places that get -inf.
        allowed: of the rows that may choose among some tokens only; None: there are none.
    """

    rows: Tensor
    places: Tensor
    changes: Tensor
    forbidden: Tensor
    allowed: RowMasks | None

    def apply(self, readout: Readout) -> Readout:
        """Return what the edited logits say: logits in float32 and the likeliest ids; the rest stays."""
        logits = readout.logits.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        flat = logits.view(-1)
        bias, scale, frequency, presence = self.changes
        scores = flat[self.places] + bias
        scores = torch.where(scores > 0, scores / scale, scores * scale)
        flat[self.places] = scores - frequency - presence
        if self.allowed is not None:
            logits.index_copy_(0, self.allowed.rows, self.allowed.apply(logits))
        flat[self.forbidden] = EXCLUDED
        ids = readout.ids.index_copy(0, self.rows, logits[self.rows].max(dim=-1).indices)
        return readout._replace(logits=logits, ids=ids)


def edits_of(
    choosing: Iterable[tuple[ChoosingRows, Sequence[int] | None]], logits: Tensor
) -> RowEdits | None:
    """Collect the edits of a forward's rows (host work, and a few transfers).

    Args:
        choosing: rows, by sequence, and the drafts behind the anchor; None: the rows propose them.
        logits: (T, V).
    Returns:
        None when no row has any.
    """
    edited = [
        (rows, drafts)
        for rows, drafts in choosing
        if rows.sequence.edits is not None and (drafts is not None or rows.sequence.edits.edits_proposals)
    ]
    if not edited:
        return None
    V, device = logits.shape[1], logits.device
    places: list[np.ndarray] = []
    changes: list[np.ndarray] = []
    forbidden: list[np.ndarray] = []
    for rows, drafts in edited:
        sequence = rows.sequence
        so_far = sequence.token_ids, sequence.num_prompt
        if drafts is None:
            edits = sequence.edits.proposals(*so_far, rows.count)
        else:
            edits = sequence.edits.block(*so_far, drafts, rows.count)
        starts = np.arange(rows.first, rows.first + rows.count) * V
        places.append((starts[:, None] + edits.ids).ravel())
        own = (edits.biases, edits.scales, edits.frequency, edits.presence)
        changes.append(np.stack([np.broadcast_to(part, edits.scales.shape).ravel() for part in own]))
        forbidden += [start + ids for start, ids in zip(starts, edits.forbidden, strict=True)]
    bound = [rows for rows, _ in edited if rows.sequence.edits.rules.allowed is not None]
    masks = [rows.sequence.edits.rules.allowed for rows in bound for _ in range(rows.count)]
    return RowEdits(
        to_device(_numbers([rows for rows, _ in edited]), device),
        to_device(np.concatenate(places), device),
        to_device(np.concatenate(changes, axis=1), device),
        to_device(np.concatenate(forbidden), device),
        RowMasks.of(_numbers(bound).tolist(), masks, device) if bound else None,
    )


def _for_proposals(step: StepLayout, readout: Readout) -> Readout:
    """Return a draft forward's readout as its rows propose from it."""
    edits = edits_of(((rows, None) for rows in step.drafting()), readout.logits)
    return edits.apply(readout) if edits else readout


def _numbers(several: Sequence[ChoosingRows]) -> np.ndarray:
    """Return the numbers of rows, (E,) int64."""
    return np.concatenate([np.arange(rows.first, rows.first + rows.count) for rows in several])


class Edited:
    """A `Chooser` of steps in which some requests edit logits: another one, from the edited ones.

    Log-probabilities and gaps stay those of the logits before edits. The rows of a draft forward get biases
    and forbidden tokens, as far as they do not hang on drafts, but no penalties: a draft may be anything, and
    without them more stand (6.6 against 4.9 tokens per step at a repetition penalty of 1.5, shipped model),
    since the diffusion view is less sure of its tokens than the AR view and so loses more of them.
    """

    def __init__(self, inner: Chooser):
        """Args: inner chooses."""
        self._inner = inner

    def propose(self, step: StepLayout, readout: Readout, positions: Tensor) -> Tensor:
        """See `Chooser`."""
        return self._inner.propose(step, _for_proposals(step, readout), positions)

    def propose_ahead(self, step: StepLayout, readout: Readout, positions: Tensor) -> Tensor:
        """See `Chooser`."""
        return self._inner.propose_ahead(step, _for_proposals(step, readout), positions)

    def choose(
        self, step: StepLayout, readout: Readout, positions: Tensor, draft_ids: Tensor | None
    ) -> Choices:
        """See `Chooser`."""
        on_host = None if draft_ids is None else draft_ids.cpu()
        edits = edits_of(
            ((rows, step.drafts_of(rows.line, on_host)) for rows in step.verifying()), readout.logits
        )
        if edits is None:
            return self._inner.choose(step, readout, positions, draft_ids)
        ids = self._inner.choose(step, edits.apply(readout), positions, draft_ids).ids
        return Choices(ids, readout.logprobs_of(ids))
