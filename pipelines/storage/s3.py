"""What S3 takes beyond fsspec's own interface."""

import functools
from typing import Any

import fsspec.config
from fsspec import AbstractFileSystem

from pipelines.storage.file_info import FileInfo

LOOK_ATTEMPTS = 3  # of the check before a run starts: a wrong endpoint is known in seconds
S3FS_TRIES = 3  # around botocore's own: for answers that break off, and SlowDown


def is_s3(fs: AbstractFileSystem) -> bool:
    """Whether a file system is s3fs."""
    return "s3" in (fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,))


def use_listing(handle: Any, path: str, info: FileInfo) -> None:
    """Let an open file of s3fs ask for nothing but bytes, and only those of the version listed."""
    handle.details = {"name": path, "size": info.size, "ETag": info.etag, "type": "file"}
    if info.etag:
        handle.read_kw = {**handle.read_kw, "IfMatch": info.etag}


def look_at_bucket(kind: type[AbstractFileSystem], path: str) -> None:
    """List one name, with few tries; raises what s3fs raises."""
    configured = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
    retries = {"mode": "standard", "total_max_attempts": LOOK_ATTEMPTS}
    fs = kind(config_kwargs={**configured, "retries": retries, "connect_timeout": 5, "read_timeout": 10})
    fs.retries = 1  # s3fs repeats what botocore repeats already
    bucket, _, prefix = path.partition("/")
    # of a glob, the part without marks; a bucket's policy may allow one prefix only
    prefix = functools.reduce(lambda text, mark: text.split(mark)[0], "*?[", prefix)
    fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1)
