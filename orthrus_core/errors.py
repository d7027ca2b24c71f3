"""Errors that a user can repair, each saying where, what and how."""


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
