"""A local file system whose listings follow symbolic links, as opening a file does."""

import os
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from pipelines.storage.errors import StorageError


class LinkedFiles(LocalFileSystem):
    """fsspec's own lists a link as neither file nor directory, and leaves out a directory closed to it."""

    def ls(self, path: str, detail: bool = False, **kwargs: Any) -> list[Any]:
        """What is in a directory, a link as what it leads to; one that leads nowhere is an empty file.

        Raises:
            StorageError: the directory is a link back to one that it lies in, or closed to us.
        """
        path = self._strip_protocol(path)
        _check_no_loop(path)
        try:
            entries = [self._entry(f"{path.rstrip('/')}/{name}") for name in os.listdir(path)]
        except (FileNotFoundError, NotADirectoryError):
            raise
        except OSError as error:
            raise StorageError(f"cannot list {path}: {error.strerror}") from None
        return [entry if detail else entry["name"] for entry in entries if entry is not None]

    def _entry(self, path: str) -> dict[str, Any] | None:
        """fsspec's entry; None for what has gone since it was listed."""
        try:
            return self.info(path)
        except OSError as error:
            if os.path.islink(path):
                return {"name": path, "type": "file", "size": 0}
            if isinstance(error, FileNotFoundError):
                return None
            raise


def _check_no_loop(path: str) -> None:
    if not os.path.islink(path):
        return
    for above in Path(path).parents:
        if os.path.samefile(path, above):
            raise StorageError(
                f"cannot list {path}: it is a link back to {above}, where it lies itself; remove the link, "
                "or name the files"
            )
