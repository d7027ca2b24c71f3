"""Errors that a user can repair, each saying where, what and how."""

REASON_LENGTH = 160


class OrthrusError(Exception):
    """Base of every error raised on purpose by this project."""


class ConfigError(OrthrusError):
    """A mistake in a config or on the command line: shown in one line, exit code 2."""


class CheckpointError(ConfigError):
    """A model directory that is not a usable Orthrus checkpoint."""


class RequestError(OrthrusError):
    """One request the engine cannot run; the other requests go on."""


class EngineError(OrthrusError):
    """The model or the device gives no usable numbers: the engine cannot go on."""


def reason_of(error: BaseException) -> str:
    """Return the first line of what an error of a library says, its name where it says nothing."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:REASON_LENGTH]
