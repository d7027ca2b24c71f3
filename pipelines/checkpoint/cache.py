"""Models in object storage: one copy per machine, shared by all processes on it."""

import fnmatch
import hashlib
import logging
import os
import shutil
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from orthrus_core.errors import ConfigError, OrthrusError
from pipelines.storage.file_info import FileInfo
from pipelines.storage.files import check_reachable, download, join, map_files
from pipelines.storage.listing import list_tree

SMALL_FILES = ("*.json", "*.txt", "*.jinja", "tokenizer*")
RUN_FILES = "_run/"  # of the run that trained it: checkpoints and data
DOWNLOADS = 8  # files at once

logger = logging.getLogger(__name__)


def cache_directory() -> Path:
    """Where copies are kept: ORTHRUS_CACHE, or ~/.cache/orthrus."""
    return Path(os.environ.get("ORTHRUS_CACHE") or Path.home() / ".cache" / "orthrus") / "models"


def list_model(url: str) -> list[FileInfo]:
    """Files of a model directory in a store.

    Raises:
        ConfigError: the store cannot be reached, or nothing is there.
    """
    check_reachable(url, "model.path")
    files = [file for file in list_tree(url) if not _below(url, file).startswith(RUN_FILES)]
    if not files:
        raise ConfigError(f"model.path: no files at {url}")
    return files


def listing_key(files: Sequence[FileInfo]) -> str:
    """Short hash that changes when a name, a size or an etag (where there is none, the time) does."""
    lines = [f"{file.url}:{file.size}:{file.etag or file.mtime}" for file in files]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


def local_copy(url: str, key: str, *, weights: bool) -> str:
    """A directory on this machine with a model's files; what is missing is fetched, by one process at a time.

    A directory appears under its name only when it is whole. Without weights it holds what tokenizer and
    config need, which is all that a driver or a reading task wants.

    Args:
        key: `listing_key` of the model as the run knows it.
    Raises:
        ConfigError: the model has changed since.
        StorageError: the store refused or did not answer.
    """
    root = cache_directory()
    whole, small = root / key, root / f"{key}-small"
    for known in (whole,) if weights else (whole, small):
        if known.is_dir():
            return str(known)
    root.mkdir(parents=True, exist_ok=True)
    target = whole if weights else small
    with FileLock(str(root / f"{target.name}.lock")):
        if not target.is_dir():  # another process may have been first
            _fetch(url, key, target, SMALL_FILES if not weights else ("*",))
    return str(target)


def _fetch(url: str, key: str, target: Path, patterns: Sequence[str]) -> None:
    files = list_model(url)
    if listing_key(files) != key:
        raise ConfigError(f"model.path: {url} has changed since this run was started; start it again")
    for left_over in target.parent.glob(f".{target.name}.*.tmp"):  # of a process that was killed
        shutil.rmtree(left_over, ignore_errors=True)
    started_at = time.perf_counter()
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex}.tmp"
    wanted = [file for file in files if any(fnmatch.fnmatch(_name(file), pattern) for pattern in patterns)]
    try:
        map_files(lambda file: _fetch_file(file, temporary / _below(url, file)), wanted, threads=DOWNLOADS)
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    logger.info(
        "model_fetched url=%s files=%d bytes=%d seconds=%.1f",
        *(url, len(wanted), sum(file.size for file in wanted), time.perf_counter() - started_at),
    )


def _fetch_file(file: FileInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    download(file.url, str(path))
    if path.stat().st_size != file.size:
        raise OrthrusError(f"{file.url} came with {path.stat().st_size} bytes of {file.size}")


def _name(file: FileInfo) -> str:
    return file.url.rsplit("/", 1)[-1]


def _below(url: str, file: FileInfo) -> str:
    """Path of a file within the model directory.

    Raises:
        ConfigError: its name leads out of the directory; in an object store any text can be a name.
    """
    name = file.url.removeprefix(join(url, ""))
    if name.startswith("/") or ".." in name.split("/"):
        raise ConfigError(f"model.path: {url} holds a file whose name leads out of it: {name!r}; remove it")
    return name
