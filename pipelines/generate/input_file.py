"""An input file that is open for reading, and whether the store or its content is to blame for an error."""

import gzip
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, TypeVar, cast

from orthrus_core.errors import OrthrusError
from pipelines.storage import FileInfo, open_file
from pipelines.storage_errors import reason

ResultT = TypeVar("ResultT")
CHANGED = "has changed since it was planned; start again with a new output.path"


class BadFileError(OrthrusError):
    """A file whose bytes can be had, but make no sense; reading it again does not help."""


class ChangedFileError(BadFileError):
    """A file that is not what it was when it was listed."""


class WatchedFile:
    """Passes reads on to a file and remembers the error that one of them raised."""

    def __init__(self, handle: IO[bytes]):
        self._handle = handle
        self.fault: Exception | None = None
        self.closed = False

    def read(self, size: int = -1) -> bytes:
        """Bytes from the current place."""
        try:
            return self._handle.read(size)
        except Exception as error:
            self.fault = error
            raise

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place."""
        return self._handle.seek(offset, whence)

    def tell(self) -> int:
        """The current place."""
        return self._handle.tell()

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def writable(self) -> bool:
        """Never."""
        return False

    def flush(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Close what is below."""
        self.closed = True
        self._handle.close()


def read_file(file: FileInfo, read: Callable[[Any], ResultT], *, cache: str = "readahead") -> ResultT:
    """What a function makes of a file's content.

    Args:
        read: takes the open file; anything it raises while all reads went well is the content's fault.
        cache: fsspec's, see `storage.open_file`.
    Raises:
        BadFileError: the content makes no sense, or the file is gone or closed to us.
        ChangedFileError: it has been overwritten since it was listed.
        Exception: whatever the store raised; it may be better later.
    """
    try:
        handle = WatchedFile(open_file(file.url, info=file, cache=cache))
    except (FileNotFoundError, PermissionError) as error:
        raise BadFileError(f"unreadable: {reason(error)}") from None
    try:
        return read(handle)
    except Exception as error:
        if isinstance(error, BadFileError):
            raise
        if type(handle.fault).__name__ == "FileExpired":  # s3fs: another etag
            raise ChangedFileError(CHANGED) from None
        if handle.fault is None or isinstance(handle.fault, FileNotFoundError | PermissionError):
            raise BadFileError(f"unreadable: {reason(handle.fault or error)}") from None
        raise handle.fault from None
    finally:
        handle.close()


@contextmanager
def uncompressed(handle: WatchedFile, url: str) -> Iterator[IO[bytes]]:
    """The lines' bytes: of a .gz file, decompressed from the start on."""
    plain = cast(IO[bytes], handle)
    if not url.endswith(".gz"):
        yield plain
        return
    with gzip.GzipFile(fileobj=plain) as lines:
        yield cast(IO[bytes], lines)
