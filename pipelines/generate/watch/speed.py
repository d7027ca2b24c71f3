"""Speed over the last minute."""

import time
from collections import deque

WINDOW_S = 60.0


class SpeedWindow:
    """A count that grows, and how fast it did lately."""

    def __init__(self, window_s: float = WINDOW_S):
        self._window_s = window_s
        self._samples: deque[tuple[float, float]] = deque()  # (clock, count), oldest first

    def add(self, count: float, at_s: float | None = None) -> None:
        """Take the count as it stands; zeros before it begins to grow are no part of the speed.

        Args:
            at_s: on a clock that only goes forward; None: now.
        """
        now = time.monotonic() if at_s is None else at_s
        if count == 0:
            self._samples.clear()
        self._samples.append((now, count))
        while len(self._samples) > 2 and self._samples[1][0] <= now - self._window_s:
            self._samples.popleft()

    def per_s(self) -> float | None:
        """Growth per second within the window; None while there is none."""
        if len(self._samples) < 2:
            return None
        (first_at, first), (last_at, last) = self._samples[0], self._samples[-1]
        return (last - first) / (last_at - first_at) if last_at > first_at else None
