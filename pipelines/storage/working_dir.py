"""The working directory of a job that came by `ray job submit`: a copy on every node, deleted with the job.

Files in it have another path on each node and another time in each copy, so they are known by their path
from the copy's root, which is where Ray starts the driver and every worker, and by their content.
"""

import dataclasses
import os
from pathlib import Path

from orthrus_core.errors import ConfigError
from pipelines.storage.file_info import FileInfo
from pipelines.storage.files import absolute, is_local
from pipelines.storage.local_files import content_tag

COPIES = ("runtime_resources", "working_dir_files")  # where Ray unpacks them, below its session


def in_copy(path: str | Path) -> bool:
    """Whether a local path is a copy of a working directory, or lies in one."""
    parts = Path(os.path.realpath(path)).parts
    return any(pair == COPIES for pair in zip(parts, parts[1:-1], strict=False))


def portable(path: str) -> str:
    """A local path as all nodes of the job find it: from the root of the copy, where it lies in that."""
    root = os.path.realpath(os.getcwd())
    if in_copy(root) and (full := os.path.realpath(path)).startswith(root + os.sep):
        return os.path.relpath(full, root)
    return path


def portable_file(file: FileInfo) -> FileInfo:
    """An input file as all nodes and all copies of the same working directory know it."""
    if not is_local(file.url) or (path := portable(file.url)) == file.url:
        return file
    return dataclasses.replace(file, url=path, etag=content_tag(file.url), mtime=None)


def check_outlives_job(url: str, where: str) -> None:
    """Refuse an output in the copy: it would be deleted with it, and other nodes would write into their own.

    Args:
        where: the option that names it, for the message.
    Raises:
        ConfigError: it lies in the copy.
    """
    if is_local(url) and in_copy(absolute(url)):
        raise ConfigError(
            f"{where}: {url} lies in Ray's copy of the working directory, which each node has for itself "
            "and Ray deletes after the job; give a URL or a path on storage that all nodes share: "
            f"--set {where}=s3://BUCKET/NAME"
        )
