"""How far a run is, and when its repeated tasks are due."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Progress:
    """How far a run is; all that a snapshot tells about it."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    finished: bool = False
    history: list[dict[str, float]] = field(default_factory=list)

    def state(self) -> dict[str, Any]:
        """A JSON-ready copy."""
        return {
            "step": self.step,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 1),
            "finished": self.finished,
            "history": list(self.history),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Progress":
        """The progress that `state` was made of."""
        return cls(**dict(state) | {"history": list(state["history"])})


class Rhythm:
    """Remembers when each repeated task ran last."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """clock: seconds."""
        self._clock = clock
        self._start_s = clock()
        self._last_s: dict[str, float] = {}

    def is_due(self, task: str, every_s: float) -> bool:
        """Whether `every_s` seconds have gone by since the task ran; if so it counts as run."""
        now_s = self._clock()
        if now_s - self._last_s.get(task, self._start_s) < every_s:
            return False
        self._last_s[task] = now_s
        return True
