"""Where rows to train on come from: files, a generate job's output, data sets by name."""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from orthrus_core.errors import ConfigError
from pipelines.generate.ledger.ledger import DATA, RUN, SUCCESS
from pipelines.read.config import FilesConfig
from pipelines.read.datasets import exported, plain_paths
from pipelines.read.shards import inspect_shards, list_shards
from pipelines.read.units import Plan, plan_units
from pipelines.storage.files import absolute, join, read_bytes
from pipelines.train.config import RowDataConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Rows that were found, not yet read.

    Attributes:
        plan: the files, cut into units.
        columns: prompt, completion and, where the data has it, error.
        fingerprint: changes with the files (names, sizes, etags), their row counts and the columns.
        manifests: of the generate jobs whose output this is.
    """

    plan: Plan
    columns: tuple[str, ...]
    fingerprint: str
    manifests: tuple[dict[str, Any], ...]


def find_rows(config: RowDataConfig, run_url: str, *, is_begun: bool = False) -> Source:
    """List the files and look into each: footers of Parquet, all lines of JSONL.

    Args:
        run_url: data sets of the hub are exported below it.
        is_begun: whether the run there has prepared its data already.
    Raises:
        ConfigError: no files, unreadable ones, or ones without the columns.
    """
    with _errors_name_the_option():
        paths, manifests = _without_runs(config.path)
        entry = FilesConfig(paths=paths, format=config.format)
        directories, identities = exported(entry, run_url, is_begun=is_begun)
        files = list_shards([*plain_paths(entry), *directories], config.format)
        needed = {config.prompt_column: "list", config.completion_column: "list"}
        inspection = inspect_shards(
            files, needed=needed, unit_rows=config.unit_rows, carried=(config.error_column,)
        )
    plan = plan_units(inspection, config.unit_rows)
    columns = _columns(plan, config)
    return Source(plan, columns, _fingerprint(plan, columns, identities), manifests)


@contextmanager
def _errors_name_the_option() -> Iterator[None]:
    """The generate job's input code speaks of its own options."""
    try:
        yield
    except ConfigError as error:
        text = str(error).replace("input.paths", "data.path").replace("input.dataset", "data.path")
        text = text.replace("input.format", "data.format")
        if "no column" in text:
            text += "; set data.prompt_column and data.completion_column, or make the rows with "
            text += "output.token_ids and output.prompt_token_ids of the generate job"
        raise ConfigError(text) from None


def _without_runs(paths: Sequence[str]) -> tuple[tuple[str, ...], tuple[dict[str, Any], ...]]:
    """The paths, with data/ in the place of a generate job's output, and the manifests of such jobs."""
    found, manifests = [], []
    for path in paths:
        stored = None if path.startswith("hf://") else _manifest(path)
        if stored is None:
            found.append(path if path.startswith("hf://") else absolute(path))
            continue
        manifests.append(stored)
        found.append(join(absolute(path), DATA))
        if read_bytes(join(absolute(path), RUN, SUCCESS)) is None:
            logger.warning("data.path %s is the output of a generate job that is not finished", path)
    return tuple(found), tuple(manifests)


def _manifest(path: str) -> dict[str, Any] | None:
    """A generate job's manifest, or None where the path is no output of one."""
    try:
        stored = json.loads(read_bytes(join(absolute(path), RUN, "manifest.json")) or b"null")
    except (OSError, ValueError):
        return None
    return stored if isinstance(stored, dict) and "identity" in stored and "units" in stored else None


def _columns(plan: Plan, config: RowDataConfig) -> tuple[str, ...]:
    """Columns to read.

    Raises:
        ConfigError: there are no rows, or columns are no lists of whole numbers.
    """
    if plan.num_rows == 0:
        raise ConfigError(f"data.path {', '.join(config.path)} has no rows: run the generate job first")
    for option in ("prompt_column", "completion_column"):
        name = getattr(config, option)
        kind = plan.schema.field(name).type if name in plan.schema.names else None
        if kind is None or not _is_list_of_ids(kind):
            raise ConfigError(
                f"data.{option} {name} must be a list of token ids, got {kind or 'no such column'}"
            )
    names = [config.prompt_column, config.completion_column]
    return (*names, config.error_column) if config.error_column in plan.schema.names else tuple(names)


def _is_list_of_ids(kind: pa.DataType) -> bool:
    if pa.types.is_null(kind):
        return True
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return is_list and (pa.types.is_integer(kind.value_type) or pa.types.is_null(kind.value_type))


def _fingerprint(plan: Plan, columns: Sequence[str], datasets: list[dict[str, Any]]) -> str:
    digest = hashlib.sha256(json.dumps([list(columns), datasets], default=str).encode())
    for shard in plan.shards:
        name = shard.file.url.rsplit("/", 1)[-1]
        digest.update(f"{name}:{shard.file.size}:{shard.file.etag}:{shard.num_rows}\n".encode())
    return digest.hexdigest()[:16]
