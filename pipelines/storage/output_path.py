"""Where a job may write: a place that lasts, that is open to it, and apart from what it reads."""

import os
import tempfile
from collections.abc import Sequence

from orthrus_core.errors import ConfigError
from pipelines.storage.files import absolute, check_reachable, is_local, join
from pipelines.storage.listing import lies_in, takes
from pipelines.storage.working_dir import check_outlives_job

DIRECTORIES = ("", "_run", "data", "dropped")
UNIT = "part-00000-00000.parquet"  # as the generate job names its files


def check_output(url: str, inputs: Sequence[str] = ()) -> None:
    """Refuse an output that cannot be kept, written, or told from the input; leaves nothing there.

    Args:
        url: the option output.path.
        inputs: paths, globs and directories that the job reads.
    Raises:
        ConfigError: what is wrong with it.
    """
    check_outlives_job(url, "output.path")
    check_reachable(url, "output.path")
    if is_local(url):
        for name in DIRECTORIES:
            _check_writable(os.path.join(absolute(url), name))
    for pattern in inputs:
        _check_apart(pattern, url)


def _check_writable(path: str) -> None:
    """Make a nameless file where the directory is, or will be made."""
    try:
        while not _exists(path):
            path = os.path.dirname(path)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ConfigError(f"output.path: cannot write below {path}: {error.strerror}") from None


def _exists(path: str) -> bool:
    try:
        os.lstat(path)
        return True
    except (FileNotFoundError, NotADirectoryError):
        return False


def _check_apart(pattern: str, url: str) -> None:
    found, output = _real(pattern), _real(url)
    if any(takes(found, join(output, name, UNIT)) for name in ("data", "dropped")):
        raise ConfigError(
            f"output.path {url} lies in the input {pattern}: once begun, the run would read its own output; "
            "choose an output.path outside of it"
        )
    if lies_in(found, output):
        raise ConfigError(f"input {pattern} lies in output.path {url}; choose an output.path apart from it")


def _real(url: str) -> str:
    """A local path without links; any other URL unchanged."""
    return os.path.realpath(absolute(url)) if is_local(url) else url
