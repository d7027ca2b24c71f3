"""An input file that is open for reading, and whether the store or its content is to blame for an error."""

import bz2
import gzip
import io
import lzma
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import IO, Any, TypeVar, cast

import pyarrow as pa

from orthrus_core.errors import OrthrusError
from pipelines.storage.errors import reason
from pipelines.storage.file_info import FileInfo
from pipelines.storage.files import open_file

ResultT = TypeVar("ResultT")
SKIP_BYTES = 2**20  # of a .zst file at once
CHANGED = "has changed since it was planned; start again with a new output.path"


class BadFileError(OrthrusError):
    """A file whose bytes can be had, but make no sense; reading it again does not help."""


class ChangedFileError(BadFileError):
    """A file that is not what it was when it was listed."""


class WatchedFile(io.RawIOBase):
    """Passes reads on to a file and remembers the error that one of them raised."""

    def __init__(self, handle: IO[bytes]):
        self._handle = handle
        self.fault: Exception | None = None

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

    def close(self) -> None:
        """Close what is below."""
        super().close()
        self._handle.close()


def read_file(file: FileInfo, read: Callable[[Any], ResultT], *, cache: str = "readahead") -> ResultT:
    """What a function makes of a file's content.

    Args:
        read: takes the open file; anything it raises while all reads went well is the content's fault.
        cache: fsspec's, see `files.open_file`.
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
    """The lines' bytes: of a compressed file, decompressed from the start on."""
    plain = cast(IO[bytes], handle)
    unpack = COMPRESSIONS.get(os.path.splitext(url.lower())[1])
    if unpack is None:
        yield plain
        return
    with closing(unpack(plain)) as lines:
        yield cast(IO[bytes], lines)


class _ZstdFile:
    """The content of a .zst file, from its start to its end: Arrow's decompressor does not seek."""

    def __init__(self, handle: IO[bytes]):
        self._stream = pa.CompressedInputStream(handle, "zstd")
        self._at = 0

    def read(self, size: int) -> bytes:
        """Bytes from the current place."""
        content = self._stream.read(size)
        self._at += len(content)
        return content

    def seek(self, offset: int) -> None:
        """Go on to a place."""
        while self._at < offset and self.read(min(SKIP_BYTES, offset - self._at)):
            pass

    def close(self) -> None:
        """Close what is below."""
        self._stream.close()


COMPRESSIONS: dict[str, Callable[[IO[bytes]], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _ZstdFile,
}
