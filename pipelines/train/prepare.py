"""Preparing data: every unit of the source becomes one shard of token ids, by Ray Data or in this process."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from orthrus_core.errors import ConfigError, OrthrusError
from pipelines.cluster.config import RunConfig
from pipelines.cluster.failures import raised
from pipelines.cluster.ray_data import WHOLE_BLOCKS, set_options
from pipelines.read.columns import INPUT_FAULTS, ROW_ERROR, SHARD, UNIT, TableLayout
from pipelines.read.source import UnitSource, column_types, read_unit
from pipelines.read.units import Unit
from pipelines.storage.config import StorageConfig, use_storage
from pipelines.storage.files import join, put
from pipelines.train.config import RowDataConfig
from pipelines.train.rows import COMPLETION, PROMPT, RowCounts, RowRules, usable_rows
from pipelines.train.source import Source
from pipelines.train.token_shards import INDEX, TokenIndex, TokenShard, hold_out, read_index, write_table

logger = logging.getLogger(__name__)

IDS = pa.list_(pa.int64())


@dataclass(frozen=True)
class Preparation:
    """How a unit's rows become a shard; travels to Ray's workers.

    Attributes:
        columns: prompt, completion, and perhaps error.
        url: directory of the shards; None: nothing is written.
        storage: how to reach it from another process.
    """

    columns: tuple[str, ...]
    rules: RowRules
    url: str | None = None
    storage: StorageConfig | None = None

    def __call__(self, table: pa.Table) -> dict[str, Any]:
        """Prepare the rows of one unit.

        Returns:
            The shard's `name`, `num_documents` and `digest`, the `counts`, and `bad_id`: an id outside the
            vocabulary, or None; and `damage`: why the unit cannot be read, or None.
        """
        if self.storage is not None:
            use_storage(self.storage)
        name = f"part-{table[SHARD][0].as_py():05}-{table[UNIT][0].as_py():05}.parquet"
        prompts, completions = (table[column].combine_chunks().cast(IDS) for column in self.columns[:2])
        documents, counts, bad_id = usable_rows(prompts, completions, self._errors(table), self.rules)
        if self.url is not None and documents.num_rows:
            write_table(join(self.url, name), documents)
        return {
            "name": name,
            "num_documents": documents.num_rows,
            "digest": _digest(documents),
            "counts": asdict(counts),
            "bad_id": bad_id,
            "damage": _damage(table),
        }

    def _errors(self, table: pa.Table) -> pa.Array:
        """Null where a row is fine; a JSONL row that does not fit its columns has an error as well."""
        own = table[ROW_ERROR].combine_chunks()
        if len(self.columns) < 3:
            return own
        return pc.coalesce(own, table[self.columns[2]].combine_chunks().cast(pa.string()))


def prepare_data(
    source: Source,
    config: RowDataConfig,
    *,
    rules: RowRules,
    seed: int,
    url: str,
    storage: StorageConfig,
    with_ray: bool,
) -> TokenIndex:
    """Prepare the rows, or find them prepared already.

    Args:
        url: directory below the run's.
        with_ray: by Ray Data over the cluster; else in this process, one unit after the other.
    Raises:
        ConfigError: no usable row, rows that are too long and not to be dropped, ids outside the vocabulary.
    """
    key = _key(source, config, rules, seed)
    index = read_index(url)
    if index is not None and index.key == key:
        return index
    preparation = Preparation(source.columns, rules, url, storage if with_ray else None)
    results = _with_ray(source, preparation) if with_ray else prepare_here(source, preparation)
    shards, counts = collect(results, config, rules)
    shards = hold_out(url, shards, count=config.held_out_documents, seed=seed)
    index = TokenIndex(key, _content_fingerprint(shards), tuple(shards), counts)
    put(join(url, INDEX), index.to_json())
    logger.info("data_prepared %s", " ".join(f"{name}={n}" for name, n in asdict(counts).items()))
    return index


def collect(
    results: Iterable[dict[str, Any]], config: RowDataConfig, rules: RowRules
) -> tuple[list[TokenShard], RowCounts]:
    """Shards in the order of the source, and the counts of all rows, checked.

    Raises:
        ConfigError: as `prepare_data`.
    """
    shards, counts, bad_id = [], RowCounts(), None
    found = sorted(results, key=lambda result: result["name"])
    assert len({result["name"] for result in found}) == len(found), "a unit was cut into several blocks"
    for result in found:
        if result["damage"]:
            raise ConfigError(f"data.path: {result['damage']}; repair or leave out the file")
        counts += RowCounts(**result["counts"])
        bad_id = result["bad_id"] if bad_id is None else bad_id
        if result["num_documents"]:
            shards.append(TokenShard(result["name"], result["num_documents"], result["digest"]))
    _check(counts, bad_id, config, rules)
    return shards, counts


def prepare_here(
    source: Source, preparation: Preparation, units: Iterable[Unit] | None = None
) -> Iterator[Any]:
    """Prepare units in this process, one after the other; all of them, or those given."""
    types = column_types(source.plan, _layout(source))
    for unit in source.plan.units if units is None else units:
        yield preparation(read_unit(source.plan.shards_of(unit), unit, types))


def _with_ray(source: Source, preparation: Preparation) -> Iterator[dict[str, Any]]:
    """Prepare all units by Ray Data: one read task, one block, one shard for each."""
    import ray

    context = ray.data.DataContext.get_current().copy()
    set_options(context, RunConfig())
    with ray.data.DataContext.current(context), failures_in_one_line():
        rows = ray.data.read_datasource(
            UnitSource(source.plan, source.plan.units, _layout(source), preparation.storage),
            override_num_blocks=len(source.plan.units),
        ).map_batches(partial(_as_batch, preparation), **WHOLE_BLOCKS)
        yield from rows.iter_rows()


@contextmanager
def failures_in_one_line() -> Iterator[None]:
    """Ray wraps what a stage raised into tracebacks."""
    try:
        yield
    except OrthrusError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = raised(str(error)) or (lines[-1] if lines else type(error).__name__)
        raise OrthrusError(
            f"preparing the data failed: {reason:.300}; the same command tries again"
        ) from error


def _as_batch(preparation: Callable[[pa.Table], dict[str, Any]], table: pa.Table) -> pa.Table:
    return pa.Table.from_pylist([preparation(table)])


def _damage(table: pa.Table) -> str | None:
    """Why a unit's rows cannot be read; None: they can."""
    first = table[ROW_ERROR][0].as_py() or ""
    return first if first.startswith(INPUT_FAULTS) else None


def _layout(source: Source) -> TableLayout:
    return TableLayout(carried=pa.schema([]), read=source.columns)


def _check(counts: RowCounts, bad_id: int | None, config: RowDataConfig, rules: RowRules) -> None:
    where = f"data.path {', '.join(config.path)}"
    if bad_id is not None:
        raise ConfigError(
            f"{where} has token ids outside the backbone's vocabulary of {rules.vocab_size}, such as "
            f"{bad_id}: it was made with another tokenizer; generate it with this backbone"
        )
    if counts.too_long and config.too_long == "refuse":
        raise ConfigError(
            f"{where} has {counts.too_long} of {counts.rows} rows longer than packing.sequence_len "
            f"{rules.max_tokens}: raise it, or set data.too_long=drop"
        )
    if not counts.used:
        raise ConfigError(
            f"{where} has no row with a prompt and a completion of two tokens and more ({counts.rows} rows: "
            f"{counts.errors} errors, {counts.no_prompt} without prompt, {counts.no_completion} without "
            f"completion, {counts.with_mask} with the mask token, {counts.too_long} too long): run the "
            "generate job first, or set data.prompt_column and data.completion_column"
        )


def _key(source: Source, config: RowDataConfig, rules: RowRules, seed: int) -> str:
    parts = (source.fingerprint, asdict(rules), config.unit_rows, config.held_out_documents, seed)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _digest(documents: pa.Table) -> str:
    digest = hashlib.sha256()
    for name in (PROMPT, COMPLETION):
        lists = documents[name].combine_chunks()
        for chunk in lists.chunks if isinstance(lists, pa.ChunkedArray) else [lists]:
            digest.update(chunk.value_lengths().to_numpy(zero_copy_only=False).tobytes())
            digest.update(chunk.flatten().to_numpy(zero_copy_only=False).tobytes())
    return digest.hexdigest()[:16]


def _content_fingerprint(shards: Iterable[TokenShard]) -> str:
    return hashlib.sha256("".join(shard.digest for shard in shards).encode()).hexdigest()[:16]
