"""Notes that dying actors leave for the operator, and the bound on how often they may die."""

import re
import time
from dataclasses import dataclass

from orthrus_core.errors import ConfigError, OrthrusError
from pipelines.storage.files import join, list_directory, put, read_bytes

CONFIG_FAULT = re.compile(r"(?:^|[\s.])(?:ConfigError|CheckpointError): (.+)")
# the line of a traceback that says what was raised, after the frames or Ray's heading:
# (module path with a dot, class, message)
RAISED = re.compile(r"^(?: |(?:\x1b\[\d+m)?ray::).*\n((?:\w+\.)*)(\w+)(?:: (.+))?$", re.MULTILINE)
OWN_PACKAGES = ("orthrus_core.", "pipelines.")


@dataclass(frozen=True)
class FailureNotes:
    """A directory of notes of one run.

    Attributes:
        url: where the notes are, one text file each.
        data_url: where units are committed; their number tells whether the run gets anywhere.
    """

    url: str
    data_url: str

    def write(self, kind: str, text: str) -> None:
        """Leave a note of kind "engine" (a step raised) or "restart" (an actor was started again)."""
        name = f"{self._committed():08}-{time.time_ns()}-{kind}.txt"
        put(join(self.url, name), text.encode())

    def check_restarts(self, limit: int) -> None:
        """Note a restart, and give up after `limit` in a row without a unit committed between them.

        Raises:
            OrthrusError: with the last reason that an actor gave.
        """
        self.write("restart", "an actor was started again\n")
        prefix = f"{self._committed():08}-"
        restarts = [
            name for name in self._names() if name.startswith(prefix) and name.endswith("-restart.txt")
        ]
        if len(restarts) > limit:
            reason = self.last_reason() or "killed from outside: out of memory, a crash, or a lost machine"
            raise OrthrusError(f"actors died {len(restarts)} times without finishing a unit: {reason}")

    def last_reason(self) -> str | None:
        """The last line of the newest engine note."""
        names = [name for name in self._names() if name.endswith("-engine.txt")]
        if not names:
            return None
        text = (read_bytes(join(self.url, names[-1])) or b"").decode(errors="replace")
        return next((line for line in reversed(text.split("\n")) if line.strip()), None)

    def _names(self) -> list[str]:
        return sorted(name for name in list_directory(self.url) if name.endswith(".txt"))

    def _committed(self) -> int:
        return sum(not name.startswith(".") for name in list_directory(self.data_url))


def explain_failure(error: Exception, notes: FailureNotes) -> OrthrusError:
    """The reason for a failed run in one line.

    Args:
        error: what Ray raised; its text holds the traceback of the stage, from another process.
        notes: what actors wrote down before they ended themselves.
    Returns:
        A ConfigError where a stage raised one, else an OrthrusError.
    """
    text = str(error)
    if stated := CONFIG_FAULT.findall(text):
        return ConfigError(stated[-1].strip())
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    last = lines[-1] if lines else type(error).__name__
    reason = raised(text) or notes.last_reason() or last
    return OrthrusError(f"{reason}; finished units are kept, the same command goes on from there")


def raised(text: str) -> str | None:
    """What a stage raised last, by Ray's text of it; Ray's own errors, which end in advice, say less."""
    stated = [found for found in RAISED.findall(text) if not found[0].startswith("ray.")]
    if not stated:
        return None
    module, name, message = stated[-1]
    message = message.strip()
    if not message:
        return name
    return message if module.startswith(OWN_PACKAGES) else f"{name}: {message}"
