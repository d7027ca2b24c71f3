"""Files anywhere fsspec reaches: list, open, and put in one atomic step."""

import os
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import IO, Any

from fsspec import AbstractFileSystem
from fsspec.core import split_protocol, url_to_fs
from fsspec.implementations.local import LocalFileSystem

from orthrus_core.errors import ConfigError


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


def is_local(url: str) -> bool:
    """Whether a path or URL is on this machine's file system."""
    return split_protocol(url)[0] in (None, "file", "local")


def absolute(url: str) -> str:
    """A local path from the root, `~` expanded; any other URL unchanged."""
    if not is_local(url):
        return url
    return os.path.abspath(os.path.expanduser(split_protocol(url)[1]))


def join(url: str, *parts: str) -> str:
    """A path below a directory or URL."""
    return "/".join([url.rstrip("/"), *parts])


def open_file(url: str) -> IO[bytes]:
    """A readable, seekable binary file."""
    fs, path = _connect(url)
    return fs.open(path, "rb")


def read_bytes(url: str) -> bytes | None:
    """A file's content, or None where there is no such file."""
    fs, path = _connect(url)
    try:
        return fs.cat_file(path)
    except FileNotFoundError:
        return None


def list_inputs(pattern: str, endings: Sequence[str]) -> list[FileInfo]:
    """Files that a path, glob or directory names, sorted.

    Hidden files and names that begin with `_` below a directory are left out, as Parquet readers do.

    Args:
        pattern: local path or fsspec URL.
        endings: endings that a directory's files must have; files named directly need none.
    Raises:
        ConfigError: nothing there, or the store cannot be reached.
    """
    fs, path = _connect(pattern)
    try:
        found, from_directory = _find(fs, path)
    except FileNotFoundError:
        found, from_directory = {}, False
    except Exception as error:  # fsspec raises what each store's client raises
        raise ConfigError(f"input.paths: cannot list {pattern}: {type(error).__name__}: {error}") from error
    if from_directory:
        found = {name: info for name, info in found.items() if _is_data(name, path, endings)}
    if not found:
        hint = f" (looked in {os.getcwd()})" if not os.path.isabs(pattern) and is_local(pattern) else ""
        raise ConfigError(f"input.paths: no file at {pattern}{hint}")
    return [_file_info(fs, name, found[name]) for name in sorted(found)]


def list_directory(url: str) -> dict[str, int]:
    """Name to size in bytes of the files directly in a directory; empty where it does not exist."""
    fs, path = _connect(url)
    fs.invalidate_cache()
    try:
        entries = fs.ls(path, detail=True)
    except FileNotFoundError:
        return {}
    return {e["name"].rstrip("/").rsplit("/", 1)[-1]: e["size"] for e in entries if e["type"] == "file"}


def put(url: str, data: bytes) -> None:
    """Write a file so that readers see all of it or nothing of it.

    Local: a hidden temporary file beside it, synced, then renamed. Elsewhere: one put, which object stores
    make atomic themselves (rename there is copy + delete, so it is not used).
    """
    fs, path = _connect(url)
    if not isinstance(fs, LocalFileSystem):
        fs.pipe_file(path, data)
        return
    directory, name = os.path.split(path)
    os.makedirs(directory, exist_ok=True)
    temporary = os.path.join(directory, f".{name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


def create(url: str, data: bytes) -> bool:
    """Write a file that must not exist, whole and in one step; whether it was written.

    Local: a hidden temporary file, linked to the name. Elsewhere: a conditional put.
    """
    fs, path = _connect(url)
    if not isinstance(fs, LocalFileSystem):
        try:
            fs.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        return True
    directory, name = os.path.split(path)
    os.makedirs(directory, exist_ok=True)
    temporary = os.path.join(directory, f".{name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without links: the name is taken in one step all the same
        return _create_directly(path, data)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)
    return True


def _create_directly(path: str, data: bytes) -> bool:
    try:
        with open(path, "xb") as file:
            file.write(data)
    except FileExistsError:
        return False
    return True


def remove(url: str) -> None:
    """Delete a file, if it is there."""
    fs, path = _connect(url)
    if fs.exists(path):
        fs.rm_file(path)


def sweep(url: str) -> int:
    """Remove temporary files that a killed `put` left in a directory; returns how many."""
    names = [name for name in list_directory(url) if name.startswith(".") and name.endswith(".tmp")]
    fs, path = _connect(url)
    for name in names:
        fs.rm_file(join(path, name))
    return len(names)


def map_files(function, items: Sequence, threads: int = 16) -> list:
    """Call a function on every item in a few threads, results in order; for many small remote reads."""
    if not items:
        return []
    with ThreadPoolExecutor(min(threads, len(items))) as pool:
        return list(pool.map(function, items))


def _connect(url: str) -> tuple[AbstractFileSystem, str]:
    try:
        return url_to_fs(absolute(url))
    except (ImportError, ValueError) as error:
        raise ConfigError(f"cannot open {url}: {error}") from None


def _find(fs: AbstractFileSystem, path: str) -> tuple[dict[str, dict], bool]:
    """Files by name with their fsspec entries, and whether they come from walking a directory."""
    if any(mark in path for mark in "*?["):
        matches = fs.glob(path, detail=True)
        return {name: info for name, info in matches.items() if info["type"] == "file"}, False
    info = fs.info(path)
    if info["type"] == "directory":
        return fs.find(path, detail=True), True
    return {path: info}, False


def _is_data(name: str, directory: str, endings: Sequence[str]) -> bool:
    below = name.removeprefix(directory).strip("/").split("/")
    return name.endswith(tuple(endings)) and not any(part.startswith((".", "_")) for part in below)


def _file_info(fs: AbstractFileSystem, name: str, info: dict[str, Any]) -> FileInfo:
    url = name if isinstance(fs, LocalFileSystem) else fs.unstrip_protocol(name)
    etag = info.get("ETag") or info.get("etag") or info.get("md5Hash")
    changed = info.get("mtime") or info.get("LastModified") or info.get("created")
    mtime = changed.timestamp() if isinstance(changed, datetime) else changed
    return FileInfo(url, int(info["size"]), etag, mtime)
