"""Compaction: a finished run's rows in files of another size, as one manifest says that is put last.

The target is claimed first (`_compacting.json`), while it is empty; the files follow, the same ones at every
try; `_manifest.json`, put last, is the commit. A run that was killed is started again and writes over its
files. Nothing below data/ is touched.
"""

import json
import logging
import tempfile
import time
from typing import Any

from orthrus_core.errors import ConfigError, OrthrusError
from pipelines.generate.compact.partition import PartitionedFiles, check_columns
from pipelines.generate.compact.source import Source
from pipelines.generate.config.output import OutputConfig
from pipelines.storage.files import absolute, check_reachable, connect, join, put, read_bytes, remove
from pipelines.storage.listing import list_tree
from pipelines.storage.working_dir import check_outlives_job

CLAIM = "_compacting.json"
MANIFEST = "_manifest.json"
FOLDER = "compacted"

logger = logging.getLogger(__name__)


def target_url(config: OutputConfig) -> str:
    """Where a run's rows are compacted to."""
    return absolute(config.compact.path or join(config.path, FOLDER))


def compact_files(source: Source, config: OutputConfig) -> dict[str, Any]:
    """Write a run's rows anew; what is done already stays.

    Returns:
        The target's manifest: {run, version, options, rows, bytes, files: [{name, rows, bytes}], ...}.
    Raises:
        ConfigError: the target holds something else, or the run has no such columns.
        OrthrusError: the run's files are damaged, or changed meanwhile.
    """
    url, options = target_url(config), config.compact
    _check_apart(url, source)
    check_columns(source.schema, options.partition_by)
    if (done := finished(url, source, config)) is not None:
        return done
    _claim(url)
    with tempfile.TemporaryDirectory() as directory:
        size = round(options.file_mib * 2**20)
        writer = PartitionedFiles(url, options.partition_by, directory, size, config.compression)
        num_rows = 0
        for table in source.tables():
            writer.add(table)
            num_rows += table.num_rows
        files = writer.close()
    if (written := sum(file["rows"] for file in files)) != num_rows:
        raise OrthrusError(f"{url}: {written} rows were written of {num_rows}")
    source.check_unchanged()
    _clear(url, {file["name"] for file in files})
    manifest = _origin(source, config) | {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "run": source.ledger.url,
        "rows": num_rows,
        "bytes": sum(file["bytes"] for file in files),
        "files": files,
    }
    put(join(url, MANIFEST), json.dumps(manifest, indent=1).encode())
    return manifest


def finished(url: str, source: Source, config: OutputConfig) -> dict[str, Any] | None:
    """The manifest of a target that holds just this; None where the rows are still to be written.

    Raises:
        ConfigError: it holds the rows of another run, or of this one with other options or before a repair.
    """
    stored = read_bytes(join(url, MANIFEST))
    if stored is None:
        return None
    manifest = json.loads(stored)
    now = _origin(source, config)
    if other := [name for name, value in now.items() if manifest.get(name) != value]:
        raise ConfigError(
            f"output.compact.path: {url} holds another compaction (other {', '.join(other)}); remove it, or "
            "choose another path"
        )
    found = _sizes(url)
    lost = [one["name"] for one in manifest["files"] if found.get(one["name"]) != one["bytes"]]
    if lost:
        logger.warning("%s has lost %d of its files, such as %s: made again", url, len(lost), lost[0])
        remove(join(url, MANIFEST))
        return None
    return manifest


def _check_apart(url: str, source: Source) -> None:
    ledger = source.ledger
    for taken in (ledger.data_url, ledger.dropped_url, ledger.run_url):
        if f"{url}/".startswith(f"{taken}/"):
            raise ConfigError(f"output.compact.path: {url} must not lie in {taken}, which is the run's own")


def _origin(source: Source, config: OutputConfig) -> dict[str, Any]:
    """What the files are made of, and how."""
    options = config.compact.model_dump(include={"file_mib", "partition_by"}, mode="json")
    return {"version": source.version, "options": options | config.compression.model_dump(mode="json")}


def _claim(url: str) -> None:
    """Mark a target as one whose files are ours to write over.

    Raises:
        ConfigError: it has files, and was not claimed before.
    """
    if read_bytes(join(url, CLAIM)) is not None:
        return
    check_outlives_job(url, "output.compact.path")
    check_reachable(url, "output.compact.path")
    if found := _sizes(url):
        raise ConfigError(
            f"output.compact.path: {url} is not empty ({min(found)}); choose another path, or remove it"
        )
    put(join(url, CLAIM), b"{}")


def _clear(url: str, names: set[str]) -> None:
    """Remove files of an earlier try with other options."""
    for name in _sizes(url).keys() - names:
        if name.endswith(".parquet"):
            remove(join(url, name))


def _sizes(url: str) -> dict[str, int]:
    """Path below the target, and size, of every file there."""
    top = connect(url)[1].rstrip("/") + "/"
    return {connect(info.url)[1].removeprefix(top): info.size for info in list_tree(url)}
