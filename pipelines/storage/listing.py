"""Which files there are: those that a path, glob or directory of the input names; all below a directory."""

import glob
import logging
import os
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import glob_translate

from orthrus_core.errors import ConfigError, OrthrusError
from pipelines.storage.errors import reason, reported
from pipelines.storage.file_info import FileInfo
from pipelines.storage.files import check_reachable, connect, is_local
from pipelines.storage.linked_files import LinkedFiles

MARKS = re.compile(r"[*?[]")
ANY = ("",)  # what every name ends with
MOST_NAMED = 5  # of the files that are left out

logger = logging.getLogger(__name__)


def list_inputs(pattern: str, endings: Sequence[str]) -> list[FileInfo]:
    """Files that a path, glob or directory names, sorted.

    A path that exists as written is that file or directory, whatever marks are in its name. Names that begin
    with `.` or `_` are left out below a directory, as Parquet readers do, and where they match no more than a
    mark of a glob, as shells do. Data and whatever else is left out is logged.

    Args:
        pattern: local path or fsspec URL.
        endings: endings, in lower case, that a directory's files must have; files named directly or by a glob
            need none.
    Raises:
        ConfigError: nothing there, or the store cannot be reached.
    """
    check_reachable(pattern, "input.paths")
    fs, path = _connect(pattern)
    try:
        found, left = _find(fs, path, tuple(endings))
    except FileNotFoundError:
        found, left = {}, []
    except OrthrusError as error:
        raise ConfigError(f"input.paths: {error}") from None
    except Exception as error:  # fsspec raises what each store's client raises
        raise ConfigError(f"input.paths: cannot list {pattern}: {reason(error)}") from None
    if not found:
        where = f" (looked in {os.getcwd()})" if not os.path.isabs(pattern) and is_local(pattern) else ""
        hint = f"; left out: {_named(left)}" if left else ""
        raise ConfigError(f"input.paths: no file at {pattern}{where}{hint}")
    if left:
        logger.warning("inputs_left_out path=%s files=%d: %s", pattern, len(left), _named(left))
    return [_file_info(fs, name, found[name]) for name in sorted(found)]


def list_tree(url: str) -> list[FileInfo]:
    """All files below a directory, at any depth, sorted; empty where it does not exist."""
    fs, path = _connect(url)
    try:
        with reported(url):
            found = fs.find(path, detail=True)
    except FileNotFoundError:
        return []
    return [_file_info(fs, name, found[name]) for name in sorted(found)]


def takes(pattern: str, url: str) -> bool:
    """Whether `list_inputs` would take a data file at this URL, once there is one."""
    (fs, path), (other, name) = _connect(pattern), _connect(url)
    if type(fs) is not type(other):
        return False
    marked = _as_glob(fs, path)
    if marked is None:
        return name.startswith(f"{path}/") and not _is_hidden(name, glob.escape(path))
    return re.match(glob_translate(marked), name) is not None and not _is_hidden(name, marked)


def lies_in(pattern: str, directory: str) -> bool:
    """Whether a path or glob names nothing outside of a directory."""
    (fs, path), (other, top) = _connect(pattern), _connect(directory)
    return type(fs) is type(other) and f"{path}/".startswith(f"{top}/")


def _connect(url: str) -> tuple[AbstractFileSystem, str]:
    fs, path = connect(url)
    return (LinkedFiles() if isinstance(fs, LocalFileSystem) else fs), path


def _find(
    fs: AbstractFileSystem, path: str, endings: tuple[str, ...]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Files by name with their fsspec entries, and the names of what is left out."""
    pattern = _as_glob(fs, path)
    if pattern is not None:
        return _sort_out(fs.glob(pattern, detail=True), pattern, ANY)
    info = fs.info(path)
    if info["type"] != "directory":
        return {path: info}, []
    files = {name: info for name, info in fs.find(path, detail=True).items() if info["type"] != "directory"}
    return _sort_out(files, glob.escape(path), endings)


def _as_glob(fs: AbstractFileSystem, path: str) -> str | None:
    """The path with the marks escaped that are part of a name; None where it exists as written."""
    parts = path.split("/")
    for number, part in enumerate(parts):
        if MARKS.search(part) and not _exists(fs, "/".join(parts[: number + 1])):
            return "/".join([*map(glob.escape, parts[:number]), *parts[number:]])
    return None


def _exists(fs: AbstractFileSystem, path: str) -> bool:
    try:
        return bool(fs.info(path))
    except (
        FileNotFoundError,
        NotADirectoryError,
        PermissionError,
    ):  # S3 forbids to ask for what is not there
        return False


def _sort_out(
    found: Mapping[str, dict[str, Any]], pattern: str, endings: tuple[str, ...]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """What is taken of a listing, and the names of the rest but for hidden files that are no data."""
    taken: dict[str, dict[str, Any]] = {}
    left: list[str] = []
    for name, info in found.items():
        is_hidden = _is_hidden(name, pattern)
        is_data = info["type"] != "directory" and name.lower().endswith(endings)
        if is_data and not is_hidden and info["type"] == "file":
            taken[name] = info
        elif is_data or not is_hidden:
            left.append(name)
    above = {str(directory) for name in taken for directory in PurePosixPath(name).parents}
    return taken, sorted(name for name in left if name.rstrip("/") not in above)


def _is_hidden(name: str, pattern: str) -> bool:
    """Whether a part of the name begins with `.` or `_`, and none of the pattern's does that it matches."""
    written = [part for part in pattern.split("/") if part.startswith((".", "_"))]
    return any(
        part.startswith((".", "_"))
        and not any(one[0] == part[0] and fnmatchcase(part, one) for one in written)
        for part in name.split("/")
    )


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def _file_info(fs: AbstractFileSystem, name: str, info: dict[str, Any]) -> FileInfo:
    url = name if isinstance(fs, LocalFileSystem) else fs.unstrip_protocol(name)
    etag = info.get("ETag") or info.get("etag") or info.get("md5Hash")
    changed = info.get("mtime") or info.get("LastModified") or info.get("created")
    mtime = changed.timestamp() if isinstance(changed, datetime) else changed
    return FileInfo(url, int(info["size"]), etag, mtime)
