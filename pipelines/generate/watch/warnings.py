"""What the driver warns of while a run goes on, each once."""

import contextlib
import logging
from collections.abc import Mapping
from typing import Any

from pipelines.cluster.failures import FailureNotes

logger = logging.getLogger(__name__)


class RunWarnings:
    """Looks at units as they are committed."""

    def __init__(self, notes: FailureNotes, num_actors: int):
        """Args: num_actors are expected; one more was started in the place of one that died."""
        self._notes = notes
        self._num_actors = num_actors
        self._actors: set[str] = set()
        self._has_alarmed = False

    def look(self, summary: Mapping[str, Any]) -> None:
        """Warn of what a committed unit tells."""
        if summary["engine"].get("drafter_alarm") and not self._has_alarmed:
            self._has_alarmed = True
            logger.warning(
                "drafter_alarm: drafts hardly ever stand, so this is slow, not wrong: the head may belong to "
                "another backbone, or the prompts are far from its training data"
            )
        if summary["actor"] not in self._actors:
            self._actors.add(summary["actor"])
            if len(self._actors) > self._num_actors:
                logger.warning("an actor died, %s goes on in its place: %s", summary["actor"], self._reason())

    def _reason(self) -> str:
        with contextlib.suppress(Exception):  # storage that fails for a moment; the run goes on
            if reason := self._notes.last_reason():
                return reason
        return "killed from outside: out of memory, a crash, or a lost machine"
