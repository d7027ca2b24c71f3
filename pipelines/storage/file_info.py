"""A file as a listing knows it."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class FileInfo:
    """One file of a listing.

    Attributes:
        url: absolute path or URL, as `open_file` takes it.
        size: bytes.
        etag: the store's own content tag, where it has one.
        mtime: seconds since 1970, where the store tells.
    """

    url: str
    size: int
    etag: str | None = None
    mtime: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, for json."""
        return asdict(self)
