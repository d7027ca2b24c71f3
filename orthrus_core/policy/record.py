"""How long steps took beside what was predicted: costs are measured once, and machines change."""

from enum import IntEnum

import numpy as np

MEMORY = 0.99  # weight kept per noted step: the last 100 or so count
FIRST_GUESS = 3.0  # weight of the guess that predictions are right, in steps
FIRST_TOKENS = 100.0  # weight of the guess that predicted tokens are right, in tokens
LEAST, MOST = 0.5, 1.25  # of the handicap


class Kind(IntEnum):
    """What a step may be: without drafts, with looked up ones alone, with a draft forward, or of one forward
    that drafts ahead.
    """

    PLAIN = 0
    LOOKUP = 1
    BLOCKS = 2
    AHEAD = 3


class TrackRecord:
    """Compares the seconds of steps with their predictions, those of one kind with those without drafts.

    The tokens of steps are not compared: the estimates of survival follow those, and a few unlucky steps
    would hold drafting back twice. Brings up to 12 % where drafts were measured 30 % too cheap.
    """

    def __init__(self) -> None:
        self._ratios = np.full(len(Kind), FIRST_GUESS)  # sums of predicted over realised seconds
        self._weights = np.full(len(Kind), FIRST_GUESS)

    def handicap(self, kind: Kind) -> float:
        """Factor on the rate that is predicted for a kind, when it is held against a plain step."""
        if kind is Kind.PLAIN:
            return 1.0
        ratios = self._ratios / self._weights
        return float(np.clip(ratios[kind] / ratios[Kind.PLAIN], LEAST, MOST))

    def note(self, kind: Kind, predicted_s: float, seconds: float) -> None:
        """Add one step, the seconds that it was to take and those that it took."""
        self._ratios = FIRST_GUESS + MEMORY * (self._ratios - FIRST_GUESS)
        self._weights = FIRST_GUESS + MEMORY * (self._weights - FIRST_GUESS)
        self._ratios[kind] += predicted_s / seconds
        self._weights[kind] += 1.0


class TokenRecord:
    """Compares the tokens that steps which draft ahead emitted with those predicted for the long run.

    Every sequence begins without drafts at hand and ends in the middle of some; short texts have much of
    both. Single steps emit a token or a whole block, so many of them count.
    """

    def __init__(self) -> None:
        self._predicted = self._emitted = FIRST_TOKENS

    @property
    def ratio(self) -> float:
        """Factor on the tokens that are predicted."""
        return float(np.clip(self._emitted / self._predicted, LEAST, 1.0))

    def note(self, predicted: float, emitted: float) -> None:
        """Add one step."""
        self._predicted = FIRST_TOKENS + MEMORY * (self._predicted - FIRST_TOKENS) + predicted
        self._emitted = FIRST_TOKENS + MEMORY * (self._emitted - FIRST_TOKENS) + emitted
