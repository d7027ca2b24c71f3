"""Which chooser a step takes."""

from collections.abc import Callable, Sequence
from typing import Literal

from orthrus_core.choosers.coupled import Coupled
from orthrus_core.choosers.edited import Edited
from orthrus_core.choosers.grammar import UnderGrammar
from orthrus_core.choosers.rejection import Rejection
from orthrus_core.engine.layout import Work
from orthrus_core.engine.step import Chooser, Greedy


def chooser_by(consensus: Literal["coupled", "rejection"]) -> Callable[[Sequence[Work]], Chooser]:
    """Return what makes each step's chooser, the simplest that will do, by the rule for sampled text."""

    def choose(works: Sequence[Work]) -> Chooser:
        chooser = unedited(works)
        return Edited(chooser) if any(work.sequence.edits is not None for work in works) else chooser

    def unedited(works: Sequence[Work]) -> Chooser:
        samples = any(work.sequence.params.temperature for work in works)
        is_bound = any(work.sequence.constraint is not None for work in works)
        if not samples and not is_bound:
            return Greedy()
        by_rejection = samples and consensus == "rejection"
        chooser = (UnderGrammar if is_bound else Coupled)(keep_scores=by_rejection)
        return Rejection(chooser) if by_rejection else chooser

    return choose
