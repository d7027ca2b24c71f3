"""How long steps took beside what was predicted: costs are measured once, and machines change."""

from dataclasses import dataclass

import numpy as np

MEMORY = 0.99  # weight kept per noted step: the last 100 or so count
FIRST_GUESS = 3.0  # weight of the guess that predictions are right, in steps
LEAST, MOST = 0.5, 1.25  # of the handicap


@dataclass(frozen=True)
class Prediction:
    """What a deal was expected to take.

    Attributes:
        drafts: whether anybody drafts.
        seconds: that it takes.
    """

    drafts: bool
    seconds: float


class TrackRecord:
    """Compares the seconds of steps with their predictions, those with drafts and those without.

    The tokens of steps are not compared: the estimates of survival follow those, and a few unlucky steps
    would hold drafting back twice. Brings up to 12 % where drafts were measured 30 % too cheap.
    """

    def __init__(self) -> None:
        self._ratios = np.full(2, FIRST_GUESS)  # sums of predicted over realised seconds: plain, drafting
        self._weights = np.full(2, FIRST_GUESS)

    @property
    def handicap(self) -> float:
        """Factor on the rate that is predicted for drafting, when it is held against a plain step."""
        plain, drafting = self._ratios / self._weights
        return float(np.clip(drafting / plain, LEAST, MOST))

    def note(self, prediction: Prediction, seconds: float) -> None:
        """Add one step and the seconds that it took."""
        self._ratios = FIRST_GUESS + MEMORY * (self._ratios - FIRST_GUESS)
        self._weights = FIRST_GUESS + MEMORY * (self._weights - FIRST_GUESS)
        self._ratios[int(prediction.drafts)] += prediction.seconds / seconds
        self._weights[int(prediction.drafts)] += 1.0
