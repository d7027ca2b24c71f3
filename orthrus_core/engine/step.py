"""What a step draws on: who makes its drafts, and how its rows choose tokens."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from orthrus_core.engine.layout import StepLayout
from orthrus_core.engine.runner import ModelRunner
from orthrus_core.models.readout import Readout

NO_TOKEN = -1


class Choices(NamedTuple):
    """What the R rows of a forward that choose do choose, on the device.

    Attributes:
        ids: (R,) int64. NO_TOKEN behind a choice says that the block ends there, be it with the draft's id.
        logprobs: (R,) float32, their log-probabilities before temperature, filters and grammar; not finite
            where a row is broken.
    """

    ids: Tensor
    logprobs: Tensor


class Chooser(Protocol):
    """How the rows of one step choose tokens, and so which drafts stand. Made anew for every step."""

    def propose(self, step: StepLayout, readout: Readout, positions: Tensor) -> Tensor:
        """Return what the rows of a draft forward propose, (D,) int64.

        Args:
            step: what runs.
            readout: of the draft forward.
            positions: (R,) int64, of the rows read out; each proposes the token of the next position.
        """
        ...

    def propose_ahead(self, step: StepLayout, readout: Readout, positions: Tensor) -> Tensor:
        """Return what the rows of blocks for the next step propose, as `propose`, but freely: what a grammar
        allows there is not known yet.
        """
        ...

    def choose(
        self, step: StepLayout, readout: Readout, positions: Tensor, draft_ids: Tensor | None
    ) -> Choices:
        """Return what the rows of a verify forward choose: behind an accepted draft stands the next choice.

        Args:
            step: what runs.
            readout: of the verify forward.
            positions: (R,) int64, of the rows read out.
            draft_ids: (D,) int64, in the order of the draft forward's rows; None: there was none.
        """
        ...


class Greedy:
    """Every row takes its likeliest token."""

    def propose(self, step: StepLayout, readout: Readout, positions: Tensor) -> Tensor:
        """See `Chooser`."""
        return readout.ids[: len(step.target_rows)]

    propose_ahead = propose

    def choose(
        self, step: StepLayout, readout: Readout, positions: Tensor, draft_ids: Tensor | None
    ) -> Choices:
        """See `Chooser`."""
        return Choices(readout.ids, readout.logprobs)


class DraftSource(Protocol):
    """Makes the drafts that a step has not looked up. Whatever they are, they never change the text."""

    def propose(self, runner: ModelRunner, step: StepLayout, chooser: Chooser) -> Tensor:
        """Return (D,) int64, the drafts of each work of the draft forward, one after the other."""
        ...


class DiffusionDrafts:
    """Drafts by the diffusion view: one forward over the blocks of all works that have one."""

    @torch.inference_mode()
    def propose(self, runner: ModelRunner, step: StepLayout, chooser: Chooser) -> Tensor:
        """See `DraftSource`."""
        spans = step.draft_spans(runner.mask_token_id)
        rows = runner.lay_out(spans, "diffusion", token_budget=step.draft_budget)
        return chooser.propose(step, runner.run(rows, "diffusion"), rows.positions)
