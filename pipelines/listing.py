"""Which files there are: those that a path, glob or directory of the input names; all below a directory."""

import os
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from orthrus_core.errors import ConfigError
from pipelines.storage import FileInfo, check_reachable, connect, is_local
from pipelines.storage_errors import reason, reported


def list_inputs(pattern: str, endings: Sequence[str]) -> list[FileInfo]:
    """Files that a path, glob or directory names, sorted.

    Hidden files and names that begin with `_` below a directory are left out, as Parquet readers do.

    Args:
        pattern: local path or fsspec URL.
        endings: endings that a directory's files must have; files named directly need none.
    Raises:
        ConfigError: nothing there, or the store cannot be reached.
    """
    check_reachable(pattern, "input.paths")
    fs, path = connect(pattern)
    try:
        found, from_directory = _find(fs, path)
    except FileNotFoundError:
        found, from_directory = {}, False
    except Exception as error:  # fsspec raises what each store's client raises
        raise ConfigError(f"input.paths: cannot list {pattern}: {reason(error)}") from None
    if from_directory:
        found = {name: info for name, info in found.items() if _is_data(name, path, endings)}
    if not found:
        hint = f" (looked in {os.getcwd()})" if not os.path.isabs(pattern) and is_local(pattern) else ""
        raise ConfigError(f"input.paths: no file at {pattern}{hint}")
    return [_file_info(fs, name, found[name]) for name in sorted(found)]


def list_tree(url: str) -> list[FileInfo]:
    """All files below a directory, at any depth, sorted; empty where it does not exist."""
    fs, path = connect(url)
    try:
        with reported(url):
            found = fs.find(path, detail=True)
    except FileNotFoundError:
        return []
    return [_file_info(fs, name, found[name]) for name in sorted(found)]


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
