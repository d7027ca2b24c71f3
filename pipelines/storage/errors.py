"""What a store's client raises, as one line that a person can act on."""

import contextlib
from collections.abc import Iterator

from orthrus_core.errors import OrthrusError
from pipelines.storage.config import redact

REPAIRS = {
    "NoCredentialsError": "no credentials found; set storage.key and storage.secret, storage.profile, "
    "AWS_ACCESS_KEY_ID, or storage.anonymous: true for a public bucket",
    "PartialCredentialsError": "half of the credentials found; set both storage.key and storage.secret",
    "NoRegionError": "no region known; set storage.region",
}


class StorageError(OrthrusError):
    """A store refused or did not answer, after the retries of `storage.attempts`."""


@contextlib.contextmanager
def reported(url: str) -> Iterator[None]:
    """Turn whatever a remote store's client raises into a StorageError that names the URL.

    What says that a file is or is not there passes, and so do our own errors. The original is not chained:
    its text may echo credentials.
    """
    try:
        yield
    except (FileNotFoundError, FileExistsError, OrthrusError):
        raise
    except Exception as error:  # each store's client has errors of its own
        raise StorageError(f"{url}: {reason(error)}") from None


def reason(error: BaseException) -> str:
    """What went wrong in one line, without credentials."""
    name = type(error).__name__
    if name in REPAIRS:
        return REPAIRS[name]
    text = " ".join(str(error).split())
    if isinstance(error, PermissionError):
        return redact(f"refused by the store: {text or error_code(error) or 'permission denied'}")
    return redact(f"{name}: {text}" if text else name)[:500]


def error_code(error: BaseException) -> str | None:
    """The S3 error code behind an exception of s3fs."""
    response = getattr(error.__cause__, "response", None) or getattr(error, "response", None)
    return response.get("Error", {}).get("Code") if isinstance(response, dict) else None


def is_taken(error: BaseException) -> bool:
    """Whether a conditional put failed because the name is taken: 412, with or without a named condition."""
    return isinstance(error, FileExistsError) or error_code(error) in ("PreconditionFailed", "412")
