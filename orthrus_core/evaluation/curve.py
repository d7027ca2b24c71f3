"""How likely drafts are to be accepted, by their distance from the anchor."""

import itertools
import operator
from collections.abc import Sequence
from dataclasses import dataclass

BISECTIONS = 60  # halvings of an interval of length 1: past float64 precision


@dataclass(frozen=True)
class AcceptanceCurve:
    """Conditional acceptance of drafts.

    Attributes:
        conditional: for each draft, nearest first, the probability that it is accepted when all before it
            were; one entry per draft that the head can make.
    """

    conditional: tuple[float, ...]

    def __post_init__(self) -> None:
        for index, rate in enumerate(self.conditional):
            if not 0 <= rate <= 1:
                raise ValueError(f"conditional[{index}] must be between 0 and 1, got {rate}")

    @classmethod
    def geometric(cls, rate: float, num_drafts: int) -> "AcceptanceCurve":
        """The same acceptance at every position."""
        return cls((rate,) * num_drafts)

    @classmethod
    def from_tokens_per_step(
        cls, tokens: float, num_drafts: int, *, measured_drafts: int | None = None
    ) -> "AcceptanceCurve":
        """The geometric curve with a given acceptance length.

        Args:
            tokens: emitted per step, between 1 and `measured_drafts` + 1.
            num_drafts: entries of the curve.
            measured_drafts: drafts per step when `tokens` was measured; None: `num_drafts`.
        Raises:
            ValueError: no curve has this acceptance length.
        """
        measured = num_drafts if measured_drafts is None else measured_drafts
        if not 1 <= tokens <= measured + 1:
            raise ValueError(f"tokens per step must be between 1 and {measured + 1}, got {tokens}")
        low, high = 0.0, 1.0
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            if cls.geometric(middle, measured).tokens_per_step(measured) < tokens:
                low = middle
            else:
                high = middle
        return cls.geometric(high, num_drafts)

    @classmethod
    def from_counts(cls, accepted: Sequence[int], drafted: Sequence[int]) -> "AcceptanceCurve":
        """The curve behind an engine's counts, `accepted_by_position` and `drafted_by_position`.

        The share accepted/drafted of a position estimates its survival where block lengths do not depend on
        luck; the ratio of neighbours is the conditional acceptance, cut at 1 where chance puts it above.
        Positions that were never drafted are left out.
        """
        if len(accepted) != len(drafted):
            raise ValueError(f"there are {len(accepted)} accepted and {len(drafted)} drafted counts")
        pairs = itertools.takewhile(lambda pair: pair[1] > 0, zip(accepted, drafted, strict=True))
        survival = [count / tries for count, tries in pairs]
        before = [1.0, *survival[:-1]]
        return cls(tuple(min(1.0, s / b) if b else 0.0 for s, b in zip(survival, before, strict=True)))

    @property
    def survival(self) -> tuple[float, ...]:
        """For each draft the probability that it is emitted: it and all before it are accepted."""
        return tuple(itertools.accumulate(self.conditional, operator.mul))

    def tokens_per_step(self, num_drafts: int) -> float:
        """Expected tokens of a step: the AR view's own and every draft's survival.

        Args:
            num_drafts: drafted; those past the end of the curve are never accepted.
        """
        return 1.0 + sum(self.survival[:num_drafts])
