"""Files anywhere fsspec reaches: open, and put in one atomic step; `listing.py` finds them."""

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO

from fsspec import AbstractFileSystem
from fsspec.core import split_protocol, url_to_fs
from fsspec.implementations.local import LocalFileSystem

from orthrus_core.errors import ConfigError
from pipelines.storage import local_files
from pipelines.storage.errors import StorageError, error_code, is_taken, reason, reported
from pipelines.storage.file_info import FileInfo
from pipelines.storage.s3 import S3FS_TRIES, is_s3, look_at_bucket, use_listing

CONFLICT_TRIES = 5  # conditional puts that race are answered 409: try again


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


def open_file(url: str, *, info: FileInfo | None = None, cache: str = "readahead") -> IO[bytes]:
    """A readable, seekable binary file.

    Args:
        info: of a listing; saves a remote store the question for the size, and refuses another version
            of the file where the store has etags.
        cache: fsspec's read cache; "none" for a reader that asks for just what it needs, as Parquet's does.
    """
    fs, path = connect(url)
    if isinstance(fs, LocalFileSystem):
        return fs.open(path, "rb")
    size = {} if info is None else {"size": info.size}
    with reported(url):
        handle = fs.open(path, "rb", cache_type=cache, **size)
    if info is not None and is_s3(fs):
        use_listing(handle, path, info)
    return handle


def read_bytes(url: str) -> bytes | None:
    """A file's content, or None where there is no such file.

    Raises:
        StorageError: a remote store refused or did not answer.
    """
    fs, path = connect(url)
    if isinstance(fs, LocalFileSystem):
        try:
            return fs.cat_file(path)
        except FileNotFoundError:
            return None
    one_request = {"max_concurrency": 1} if is_s3(fs) else {}
    try:
        with reported(url):
            return fs.cat_file(path, **one_request)
    except FileNotFoundError:
        return None


def check_reachable(url: str, where: str) -> None:
    """Refuse a remote place that is not there or not open to us, within seconds.

    Args:
        where: the option that names it, for the message.
    Raises:
        ConfigError: no such bucket, refused or missing credentials, or nobody answers.
    """
    if is_local(url):
        return
    try:
        fs, path = connect(url)
        if is_s3(fs):
            look_at_bucket(type(fs), path)
        else:
            fs.exists(path)
    except ConfigError:
        raise
    except FileNotFoundError:
        raise ConfigError(f"{where}: no bucket {path.split('/')[0]} for {url}") from None
    except Exception as error:  # each store's client has errors of its own
        raise ConfigError(f"{where}: cannot reach {url}: {reason(error)}") from None


def list_directory(url: str) -> dict[str, int]:
    """Name to size in bytes of the files directly in a directory; empty where it does not exist."""
    fs, path = connect(url)
    if isinstance(fs, LocalFileSystem):
        return local_files.list_directory(path)
    fs.invalidate_cache()
    try:
        with reported(url):
            entries = fs.ls(path, detail=True)
    except FileNotFoundError:
        return {}
    return {e["name"].rstrip("/").rsplit("/", 1)[-1]: e["size"] for e in entries if e["type"] == "file"}


def download(url: str, path: str) -> None:
    """Copy a file to a local path.

    Raises:
        StorageError: a remote store refused or did not answer.
    """
    fs, remote = connect(url)
    with reported(url):
        fs.get_file(remote, path)


def put(url: str, data: bytes) -> None:
    """Write a file so that readers see all of it or nothing of it.

    Local: a hidden temporary file beside it, synced, then renamed. Elsewhere: one put, which object stores
    make atomic themselves (rename there is copy + delete, so it is not used).

    Raises:
        StorageError: a remote store refused or did not answer.
    """
    fs, path = connect(url)
    if not isinstance(fs, LocalFileSystem):
        try:
            with reported(url):
                fs.pipe_file(path, data)
        except FileNotFoundError as error:
            raise StorageError(f"{url}: {reason(error)}") from None
        return
    local_files.put(path, data)


def upload(path: str, url: str) -> None:
    """Move a local file to a URL so that readers see all of it or nothing of it; for large files.

    Raises:
        StorageError: a remote store refused or did not answer.
    """
    fs, target = connect(url)
    if isinstance(fs, LocalFileSystem):
        local_files.move(path, target)
        return
    with reported(url):
        fs.put_file(path, target)


def remove_tree(url: str) -> None:
    """Delete a file, or a directory and all in it, if it is there."""
    fs, path = connect(url)
    if not isinstance(fs, LocalFileSystem):
        with reported(url):
            map_files(fs.rm_file, fs.find(path))  # rm takes marks in a name for a glob
    elif os.path.lexists(path):
        fs.rm(path, recursive=True)


def create(url: str, data: bytes) -> bool:
    """Write a file that must not exist, whole and in one step; whether it was written.

    Local: a hidden temporary file, linked to the name. Elsewhere: a conditional put.

    Raises:
        StorageError: a remote store refused or did not answer.
    """
    fs, path = connect(url)
    if not isinstance(fs, LocalFileSystem):
        return _create_remotely(fs, path, url, data)
    return local_files.create(path, data)


def _create_remotely(fs: AbstractFileSystem, path: str, url: str, data: bytes) -> bool:
    for attempt in range(CONFLICT_TRIES):
        try:
            with reported(url):
                try:
                    fs.pipe_file(path, data, mode="create")
                    return True
                except OSError as error:
                    if is_taken(error):
                        # a try that was carried out, but whose answer was lost, finds its own file
                        return read_bytes(url) == data
                    if error_code(error) != "ConditionalRequestConflict" or attempt == CONFLICT_TRIES - 1:
                        raise
        except FileNotFoundError:
            raise ConfigError(f"no bucket {path.split('/')[0]} for {url}") from None
        time.sleep(0.2 * 2**attempt)
    return False


def remove(url: str) -> None:
    """Delete a file, if it is there."""
    fs, path = connect(url)
    try:
        with reported(url):
            fs.rm_file(path)
    except FileNotFoundError:
        return


def sweep(url: str) -> int:
    """Remove temporary files that a killed `put` left in a directory; returns how many."""
    names = [name for name in list_directory(url) if name.startswith(".") and name.endswith(".tmp")]
    fs, path = connect(url)
    for name in names:
        fs.rm_file(join(path, name))
    return len(names)


def map_files(function, items: Sequence, threads: int = 16) -> list:
    """Call a function on every item in a few threads, results in order; for many small remote reads."""
    if not items:
        return []
    with ThreadPoolExecutor(min(threads, len(items))) as pool:
        return list(pool.map(function, items))


def connect(url: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a path or URL, and the path in it.

    Raises:
        ConfigError: no such protocol, or its library is not installed.
    """
    try:
        fs, path = url_to_fs(absolute(url))
        if is_s3(fs):
            fs.retries = S3FS_TRIES
        return fs, path
    except (ImportError, ValueError) as error:
        raise ConfigError(f"cannot open {url}: {error}") from None
