"""How deals turned out: what drafting really brings, beside what was predicted."""

from dataclasses import dataclass

import numpy as np

MEMORY = 0.99  # weight kept per noted step: the last 100 or so count
FIRST_GUESS = 10.0  # weight of the guess that predictions are right, in steps
LEAST, MOST = 0.5, 1.25  # of the handicap


@dataclass(frozen=True)
class Prediction:
    """What a deal was expected to do.

    Attributes:
        drafts: whether anybody drafts.
        tokens: positions that the step commits.
        seconds: that it takes.
    """

    drafts: bool
    tokens: float
    seconds: float


class TrackRecord:
    """Compares steps with their predictions, those with drafts and those without.

    Estimates of acceptance and costs err, and of two ways that are as good as each other the one whose
    estimate errs upwards is taken. So near the break-even drafting would lose a little for ever.
    """

    def __init__(self) -> None:
        self._ratios = np.full(2, FIRST_GUESS)  # sums of realised over predicted rate: plain, drafting
        self._weights = np.full(2, FIRST_GUESS)

    @property
    def handicap(self) -> float:
        """Factor on the rate that is predicted for drafting, when it is held against a plain step."""
        plain, drafting = self._ratios / self._weights
        return float(np.clip(drafting / plain, LEAST, MOST))

    def note(self, prediction: Prediction, *, tokens: float, seconds: float) -> None:
        """Add one step.

        Args:
            tokens: positions that it committed.
            seconds: that it took.
        """
        ratio = (tokens / prediction.tokens) * (prediction.seconds / seconds)
        self._ratios = FIRST_GUESS + MEMORY * (self._ratios - FIRST_GUESS)
        self._weights = FIRST_GUESS + MEMORY * (self._weights - FIRST_GUESS)
        self._ratios[int(prediction.drafts)] += ratio
        self._weights[int(prediction.drafts)] += 1.0
