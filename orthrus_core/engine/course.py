"""What follows from a step before it has landed, or without a plan of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from orthrus_core.cache import PageTables
from orthrus_core.engine.layout import StepLayout, Work
from orthrus_core.engine.sequence import NO_SLOT


def is_free(work: Work) -> bool:
    """Whether the next step may run before this work is on the host.

    What its sequence chooses then depends on the text by keys and values alone, and nothing but tokens and
    their log-probabilities is read of the step.
    """
    sequence, params = work.sequence, work.sequence.params
    is_bound = sequence.constraint is not None or sequence.edits is not None
    return not (is_bound or params.num_top_logprobs or params.prompt_logprobs)


@contextmanager
def as_landed(step: StepLayout) -> Iterator[None]:
    """Let the sequences of a step without drafts be as it will leave them, but for their tokens' ids."""
    works = [work for work in step.works if work.sequence.slot != NO_SLOT]
    for work in works:
        work.sequence.num_committed += work.num_prefill + work.has_anchor
        work.sequence.token_ids += [0] * work.has_anchor
    try:
        yield
    finally:
        for work in works:
            work.sequence.num_committed -= work.num_prefill + work.has_anchor
            if work.has_anchor:
                work.sequence.token_ids.pop()


@dataclass(frozen=True)
class Course:
    """Plain steps of S sequences, the anchor of each, while nobody comes or goes: one follows from the last.

    Attributes:
        works: of every step.
        ends: (S,) int64, tokens that each sequence may have at most.
        is_free: whether all of them are.
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
            all(map(is_free, step.works)),
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
