"""Data sets by name: exported once as Parquet shards below the output, and read from there like any."""

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orthrus_core.errors import ConfigError
from pipelines.read.config import DatasetConfig, FilesConfig
from pipelines.storage.errors import reason
from pipelines.storage.file_info import FileInfo
from pipelines.storage.files import join, list_directory, map_files, put, read_bytes
from pipelines.storage.listing import list_tree
from pipelines.storage.local_files import content_tag

SHARD_ROWS = 8192
GROUP_ROWS = 1024
HUB_URL = re.compile(r"hf://datasets/(?P<name>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?(/(?P<files>.+))?$")


logger = logging.getLogger(__name__)


def named_datasets(config: FilesConfig) -> list[DatasetConfig]:
    """Data sets that the config names: `input.dataset` and the hf:// entries of `input.paths`.

    Raises:
        ConfigError: an hf:// entry that names no data set.
    """
    found = [] if config.dataset is None else [config.dataset]
    for url in config.paths:
        if url.startswith("hf://"):
            match = HUB_URL.match(url)
            if match is None:
                raise ConfigError(
                    f"input.paths: must be hf://datasets/owner/name[@revision][/path], got {url}"
                )
            found.append(DatasetConfig(**match.groupdict()))
    return found


def plain_paths(config: FilesConfig) -> tuple[str, ...]:
    """Entries of `input.paths` that are files."""
    return tuple(path for path in config.paths if not path.startswith("hf://"))


def local_directories(config: FilesConfig) -> tuple[str, ...]:
    """Data sets of the config that are directories here."""
    return tuple(d.name for d in named_datasets(config) if Path(d.name).expanduser().is_dir())


def export_dataset(dataset: DatasetConfig, run_url: str, *, is_begun: bool) -> tuple[str, str]:
    """Write a data set's rows as Parquet shards below `_run/input/`, unless they are there.

    An export that was killed goes on behind the shards it has. Once it is complete the data set itself is not
    looked at again, unless it is a local directory.

    Args:
        is_begun: whether the output has a manifest; its run then has exported all its data sets.
    Returns:
        Directory of the shards, and the fingerprint: the commit of a hub data set, or a hash of a directory's
        content, which is looked at again where the listing (names, sizes, times) is another.
    Raises:
        ConfigError: there is no such data set, or the output belongs to a run without it.
    """
    key = hashlib.sha256(dataset.model_dump_json().encode()).hexdigest()[:12]
    note_url = join(run_url, "input", f"{key}.json")
    stored = json.loads(read_bytes(note_url) or b"null")
    is_directory = Path(dataset.name).expanduser().is_dir()
    if stored is not None and not is_directory:
        return join(run_url, "input", stored["directory"]), stored["fingerprint"]
    listing = _listing_hash(dataset.name) if is_directory else None
    # a note of an earlier version has the listing's hash as its fingerprint
    if stored is not None and stored.get("listing", stored["fingerprint"]) == listing:
        return join(run_url, "input", stored["directory"]), stored["fingerprint"]
    fingerprint = _content_hash(dataset.name) if is_directory else None
    if stored is not None and stored["fingerprint"] == fingerprint:
        return join(run_url, "input", stored["directory"]), stored["fingerprint"]
    if is_begun:
        what = "has changed since" if stored is not None else "is no part of"
        raise ConfigError(
            f"input.dataset: {dataset.name} {what} the run in output.path; choose another output.path"
        )
    fingerprint = fingerprint or _hub_commit(dataset)
    directory = f"{key}-{fingerprint[:12]}"
    rows = _export(_load(dataset, fingerprint), join(run_url, "input", directory))
    facts = {"directory": directory, "fingerprint": fingerprint, "listing": listing, "rows": rows}
    note = facts | {"dataset": dataset.model_dump()}
    put(note_url, json.dumps(note, indent=2).encode())
    return join(run_url, "input", directory), fingerprint


def _export(data: Any, url: str) -> int:
    """Write shards that are not there yet; returns the number of rows."""
    done = list_directory(url)
    for number, start in enumerate(range(0, max(1, len(data)), SHARD_ROWS)):
        name = f"shard-{number:05}.parquet"
        if name not in done:
            put(join(url, name), _to_parquet(data, start, min(start + SHARD_ROWS, len(data))))
    logger.info("dataset_exported rows=%d url=%s", len(data), url)
    return len(data)


def _to_parquet(data: Any, start: int, end: int) -> bytes:
    table: pa.Table = data.with_format("arrow")[start:end]
    buffer = pa.BufferOutputStream()
    options = {"compression": "zstd", "row_group_size": GROUP_ROWS, "write_page_checksum": True}
    pq.write_table(table.replace_schema_metadata(None), buffer, **options)
    return buffer.getvalue().to_pybytes()


def _load(dataset: DatasetConfig, fingerprint: str) -> Any:
    """The data set, memory-mapped; downloads one from the hub to this machine's cache."""
    library = _library()
    path = Path(dataset.name).expanduser()
    try:
        if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            return _split(library.load_from_disk(str(path)), dataset)
        is_directory = path.is_dir()
        return library.load_dataset(
            str(path) if is_directory else dataset.name,
            dataset.config_name,
            split=dataset.split,
            data_files=dataset.files,
            revision=None if is_directory else fingerprint,
        )
    except ConfigError:
        raise
    except Exception as error:  # unknown names, splits and configs, a broken file, no network
        raise ConfigError(f"input.dataset: cannot load {dataset.name}: {reason(error)}") from None


def _split(loaded: Any, dataset: DatasetConfig) -> Any:
    """Of a saved dictionary of splits, the one asked for; a saved data set has no split to choose."""
    if not hasattr(loaded, "keys"):
        return loaded
    if dataset.split not in loaded:
        raise ConfigError(
            f"input.dataset.split: {dataset.name} has no split {dataset.split}; there are {', '.join(loaded)}"
        )
    return loaded[dataset.split]


def _hub_commit(dataset: DatasetConfig) -> str:
    """The commit that a hub data set's revision stands for now."""
    _library()
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(dataset.name, revision=dataset.revision).sha)
    except Exception as error:  # offline, unknown, gated: all the user's to repair
        raise ConfigError(
            f"input.dataset: no directory {dataset.name}, and the hub says {reason(error):.300}"
        ) from None


def _listing_hash(name: str) -> str:
    return _hash(f"{file.url}:{file.size}:{file.mtime}" for file in _files(name))


def _content_hash(name: str) -> str:
    """Hash of the names and contents of a directory's files; a link that leads nowhere counts as no file."""
    files = [file for file in _files(name) if os.path.exists(file.url)]
    tags = map_files(content_tag, [file.url for file in files])
    return _hash(f"{file.url}:{tag}" for file, tag in zip(files, tags, strict=True))


def _files(name: str) -> list[FileInfo]:
    return list_tree(str(Path(name).expanduser()))


def _hash(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _library() -> Any:
    try:
        import datasets
    except ImportError:
        raise ConfigError(
            "input.dataset: the package datasets is not installed: pip install 'datasets>=4'"
        ) from None
    return datasets


def exported(config: FilesConfig, run_url: str, *, is_begun: bool) -> tuple[list[str], list[dict[str, Any]]]:
    """Directories of all named data sets' shards, and what they are, for the run's identity."""
    directories, identities = [], []
    for dataset in named_datasets(config):
        directory, fingerprint = export_dataset(dataset, run_url, is_begun=is_begun)
        directories.append(directory)
        identities.append({**dataset.model_dump(), "fingerprint": fingerprint})
    return directories, identities
