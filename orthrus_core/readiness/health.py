"""Signs that a run goes wrong: drafts that never stand, logits that are no numbers."""

import logging
from collections import deque
from collections.abc import Sequence

import numpy as np

from orthrus_core.engine.layout import StepLayout
from orthrus_core.engine.scheduler import Scheduler
from orthrus_core.engine.verdict import Verdict
from orthrus_core.errors import EngineError

logger = logging.getLogger(__name__)

ALARM_STEPS = 2000  # drafting sequence steps in the window: a 1 in 20 share of accepted drafts is told from 0
ALARM_BELOW = 1.05  # tokens per drafting step; plain AR has 1
CALM_FROM = 1.2


class DraftAlarm:
    """Watches tokens per drafting step over a moving window and warns once when drafting gains nothing.

    Attributes:
        is_on: whether drafts have stopped standing. It goes off only when the window is clearly better, so
            that a rate near the limit warns once.
        tokens_per_step: accepted drafts + 1 over the window; None before the first drafting step.
    """

    def __init__(self, *, num_steps: int = ALARM_STEPS):
        """Args: num_steps is the window, in drafting steps of sequences."""
        self._num_steps = num_steps
        self._window: deque[tuple[int, int]] = deque()
        self._steps = 0
        self._accepted = 0
        self.is_on = False
        self.tokens_per_step: float | None = None

    def saw(self, step: StepLayout, verdicts: Sequence[Verdict]) -> None:
        """See `Observer`."""
        if not step.draft_budget:
            return
        num_tokens = np.array([len(verdict.token_ids) for verdict in verdicts])[step.num_draft_rows > 0]
        self.count(len(num_tokens), int((num_tokens - 1).clip(0).sum()))

    def count(self, num_sequences: int, num_accepted: int) -> None:
        """Add one engine step.

        Args:
            num_sequences: how many sequences drafted in it.
            num_accepted: their accepted drafts, all together.
        """
        if not num_sequences:
            return
        self._window.append((num_sequences, num_accepted))
        self._steps += num_sequences
        self._accepted += num_accepted
        while self._steps - self._window[0][0] >= self._num_steps:
            steps, accepted = self._window.popleft()
            self._steps -= steps
            self._accepted -= accepted
        self._judge()

    def _judge(self) -> None:
        rate = self.tokens_per_step = 1 + self._accepted / self._steps
        if self.is_on:
            self.is_on = rate < CALM_FROM
        elif self._steps >= self._num_steps and rate < ALARM_BELOW:
            self.is_on = True
            logger.warning(
                "drafter_alarm tokens_per_step=%.3f steps=%d: drafts hardly ever stand, so drafting costs "
                "time and gains none (the text is not affected). The head may belong to another backbone, "
                "the backbone may have been quantised or trained further since, or the prompts are far "
                "from what the head was trained on: train a head on this model's own text, or set "
                "mode: autoregressive",
                rate,
                self._steps,
            )


class LogitHealth:
    """Tells a request whose logits are broken from a model or device that is."""

    def __init__(self, scheduler: Scheduler) -> None:
        """Args: scheduler knows whether another request could still show that the model works."""
        self._scheduler = scheduler
        self._has_worked = False
        self._broken_prompts: set[tuple[int, ...]] = set()

    def saw(self, step: StepLayout, verdicts: Sequence[Verdict]) -> None:
        """See `Observer`.

        Raises:
            EngineError: every sequence of the step got NaN or infinite logits, and so did another prompt
                before, or there is no other one and the engine never worked.
        """
        if any(verdict.broken_row is None for verdict in verdicts):
            self._has_worked = True
            self._broken_prompts.clear()
            return
        sequences = [work.sequence for work in step.works]
        self._broken_prompts.update(tuple(one.token_ids[: one.num_prompt]) for one in sequences)
        others_wait = self._scheduler.num_sequences > len(sequences)
        if len(self._broken_prompts) > 1 or not (self._has_worked or others_wait):
            raise EngineError(
                "every sequence of a step got NaN or infinite logits: the weights or the device are broken, "
                "or the dtype overflows; check the checkpoint for NaN, or try bfloat16 or float32"
            )
