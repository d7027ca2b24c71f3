"""Files on a local file system: sizes, content, atomic writes."""

import contextlib
import hashlib
import os
import shutil
import stat
import uuid
from collections.abc import Iterator


def list_directory(path: str) -> dict[str, int]:
    """Name to size in bytes of the files directly in a directory; empty where it does not exist."""
    sizes: dict[str, int] = {}
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if size := _size(entry):
                    sizes[entry.name] = size[0]
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return sizes


def _size(entry: os.DirEntry[str]) -> tuple[int] | None:
    """Size of a file; None for what is none, or has gone since it was listed."""
    try:
        return (entry.stat().st_size,) if entry.is_file() else None
    except FileNotFoundError:
        return None


def content_tag(path: str) -> str:
    """Short hash of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def put(path: str, data: bytes) -> None:
    """Write a file by way of a hidden temporary one beside it, synced, then renamed."""
    with _beside(path) as temporary:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)


def move(source: str, path: str) -> None:
    """Move a file, synced, by way of a hidden temporary one beside its new place.

    It is open to whom any new file there is open; safetensors, for one, writes files for their owner alone.
    """
    with _beside(path) as temporary:
        with open(temporary, "wb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        shutil.move(source, temporary)
        os.chmod(temporary, mode)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)


def create(path: str, data: bytes) -> bool:
    """Write a file that must not exist, by linking a hidden one to the name; whether it was written."""
    with _beside(path) as temporary:
        try:
            with open(temporary, "wb") as file:
                file.write(data)
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without links: the name is taken in one step all the same
            return _create_directly(path, data)
    return True


@contextlib.contextmanager
def _beside(path: str) -> Iterator[str]:
    """A hidden temporary name beside a file, whose directory is made; nothing is left under it."""
    directory, name = os.path.split(path)
    os.makedirs(directory, exist_ok=True)
    temporary = os.path.join(directory, f".{name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def _create_directly(path: str, data: bytes) -> bool:
    try:
        with open(path, "xb") as file:
            file.write(data)
    except FileExistsError:
        return False
    return True
