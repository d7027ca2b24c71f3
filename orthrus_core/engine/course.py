"""A course of plain steps: the same sequences take one token each, so the next step follows from the last."""

from dataclasses import dataclass

import numpy as np

from orthrus_core.cache import PageTables
from orthrus_core.engine.layout import StepLayout, Work


@dataclass(frozen=True)
class Course:
    """Steps of S sequences, the anchor of each, while nobody comes or goes.

    Attributes:
        works: of every step.
        ends: (S,) int64, tokens that each sequence may have at most.
        is_free: whether what any of them chooses depends on its text by keys and values alone, and nothing
            else of a step is read once the next one runs.
    """

    works: list[Work]
    ends: np.ndarray
    is_free: bool

    @classmethod
    def of(cls, step: StepLayout, *, max_context: int) -> "Course | None":
        """Return the course that a step begins; None: it has rows of prompts, drafts or blocks."""
        is_plain = step.blocks is None and step.num_verify_rows == len(step.works) == step.has_anchor.sum()
        if not step.works or not is_plain:
            return None
        sequences = [work.sequence for work in step.works]
        return cls(
            step.works,
            np.minimum([one.most_tokens for one in sequences], max_context),
            not any(one.constraint or one.edits or one.params.num_top_logprobs for one in sequences),
        )

    def after(self, step: StepLayout, tables: PageTables, *, is_running: bool) -> StepLayout | None:
        """Return the step after one, with pages for its cells; None: it does not follow.

        Args:
            step: of this course, or of another.
            is_running: whether the outcome of that step is still unknown. Then its tokens are left 0, and
                none of its sequences reaches its end in it.
        """
        if step.works is not self.works:
            return None
        starts = step.verify_spans.starts
        if is_running and not (self.is_free and (starts + 2 < self.ends).all()):
            return None
        if (tables.grow_all(step.verify_spans.slots, starts + 2) < starts + 2).any():
            return None
        last = [0] * len(starts) if is_running else [work.sequence.token_ids[-1] for work in self.works]
        return step.moved_on(np.array(last, dtype=np.int64))
