"""Whether input files are what they were when a run was begun: by etag, else by time, else by content."""

import logging
import os
from collections.abc import Sequence
from dataclasses import replace

from pipelines.storage.file_info import FileInfo
from pipelines.storage.files import is_local, map_files
from pipelines.storage.local_files import content_tag

MOST_HASHED = 2**34  # bytes of a run's local files: 10 s from a disk

logger = logging.getLogger(__name__)


def tag_contents(files: Sequence[FileInfo]) -> list[FileInfo]:
    """The files; local ones have a hash of their content as etag, if they are not too large together."""
    plain = [file for file in files if file.etag is None and is_local(file.url)]
    size = sum(file.size for file in plain)
    if size > MOST_HASHED:
        logger.info("inputs_not_hashed bytes=%d: a new mtime will count as a change", size)
        return list(files)
    tagged = dict(zip(plain, map_files(_tagged, plain), strict=True))
    return [tagged.get(file, file) for file in files]


def recognise(stored: Sequence[FileInfo], now: Sequence[FileInfo]) -> list[FileInfo]:
    """The files as they are now, those whose stored etag is a hash with theirs.

    Only a file of the same size and another time is read for it.
    """
    before = {file.url: file for file in stored}

    def look(file: FileInfo) -> FileInfo:
        old = before.get(file.url)
        if old is None or old.etag is None or file.etag or old.size != file.size or not is_local(file.url):
            return file
        return replace(file, etag=old.etag if old.mtime == file.mtime else content_tag(file.url))

    return map_files(look, now)


def changed_inputs(stored: Sequence[FileInfo], now: Sequence[FileInfo]) -> tuple[list[str], list[str]]:
    """Files that are gone, new or of another size; and those with another etag, content or time."""
    before, after = ({file.url: file for file in files} for files in (stored, now))
    other = [f"input {url} is gone" for url in before if url not in after]
    other += [f"input {url} is new" for url in after if url not in before]
    replaced = []
    for url in sorted(before.keys() & after.keys()):
        old, new = before[url], after[url]
        if old.size != new.size:
            other.append(f"input {url} has another size")
        elif old.etag and new.etag:
            if old.etag != new.etag:
                replaced.append(f"input {url} has another {'content' if is_local(url) else 'etag'}")
        elif old.mtime != new.mtime:
            replaced.append(f"input {url} has another mtime")
    return other, replaced


def _tagged(file: FileInfo) -> FileInfo:
    """The file with its content's hash, if it can be read and is what was listed to the end."""
    try:
        tag, now = content_tag(file.url), os.stat(file.url)
    except OSError:  # a bad shard that is skipped
        return file
    return replace(file, etag=tag) if (now.st_size, now.st_mtime) == (file.size, file.mtime) else file
