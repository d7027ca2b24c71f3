"""Input files: which there are, and what they hold together."""

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from orthrus_core.errors import ConfigError
from pipelines.read.arrow_types import JSON_TEXT, join_types
from pipelines.read.input_file import COMPRESSIONS
from pipelines.read.jsonl import JsonColumns
from pipelines.read.shard import Look, Shard, inspect
from pipelines.storage.file_info import FileInfo
from pipelines.storage.files import map_files
from pipelines.storage.listing import list_inputs
from pipelines.storage.working_dir import portable_file

ENDINGS = {
    "parquet": (".parquet", ".pq"),
    "jsonl": tuple(name + packed for name in (".jsonl", ".ndjson") for packed in ("", *COMPRESSIONS)),
    "json": tuple(".json" + packed for packed in ("", *COMPRESSIONS)),
}
AUTO = (*ENDINGS["parquet"], *ENDINGS["jsonl"])  # below a directory, where .json mostly is something else

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inspection:
    """What all shards hold together.

    Attributes:
        shards: in the order of the listing.
        schema: union of their columns; where types differ between shards, the wider one, and JSON_TEXT where
            values of jsonl have none in common.
        kinds: of each shard, a number; those of one number have the same format and columns.
    """

    shards: tuple[Shard, ...]
    schema: pa.Schema
    kinds: tuple[int, ...] = ()


class _Types:
    """Columns of all shards in the order in which they first appear, each as wide as any of them needs."""

    def __init__(self, needed: Collection[str], carried: Collection[str] | None):
        self._needed = needed
        self._carried = carried
        self._types: dict[str, pa.DataType] = {}
        self._seen: list[pa.Schema] = []  # shards mostly have one and the same schema

    def add(self, schema: pa.Schema, url: str) -> None:
        """Take in a shard's columns; raises ConfigError where one that is used fits no earlier one."""
        if any(schema.equals(seen) for seen in self._seen):
            return
        for column in schema:
            earlier = self._types.get(column.name, pa.null())
            wider = join_types(earlier, column.type)
            if wider is None and _is_used(column.name, self._needed, self._carried):
                repair = "make the files agree"
                if column.name not in self._needed:
                    repair = f"leave it out with input.carry, or {repair}"
                raise ConfigError(
                    f"column {column.name} is {_shown(earlier)} in earlier files and {_shown(column.type)} "
                    f"in {url}; {repair}"
                )
            self._types[column.name] = earlier if wider is None else wider
        self._seen = [*self._seen[-7:], schema]

    @property
    def schema(self) -> pa.Schema:
        """The columns so far."""
        return pa.schema([pa.field(name, kind) for name, kind in self._types.items()])


def list_shards(paths: Sequence[str], format_name: str) -> list[tuple[FileInfo, str]]:
    """Input files, sorted by name within each path, with their formats.

    Raises:
        ConfigError: nothing found, or an ending that says nothing about the format.
    """
    endings = ENDINGS.get(format_name) or AUTO
    found = (portable_file(file) for path in paths for file in list_inputs(path, endings))
    files = {file.url: file for file in found}
    return [(file, _format_of(file.url, format_name)) for file in files.values()]


def inspect_shards(
    files: Sequence[tuple[FileInfo, str]],
    *,
    needed: Mapping[str, str],
    unit_rows: int,
    on_bad_shard: str = "fail",
    carried: Collection[str] | None = None,
    has_partitions: bool = True,
) -> Inspection:
    """Read every shard's footer (Parquet) or all its lines once (jsonl, json).

    Args:
        files: listing with formats.
        needed: columns that every shard must have, each with its kind: "text", "list", "messages" or "any".
        unit_rows: rows of a unit; jsonl offsets are taken every so many lines.
        on_bad_shard: "fail", or "skip" to keep bad shards without rows and say why.
        carried: other columns that are read, where a shard has them; None: all. The rest does not matter.
        has_partitions: what a file's path says (`lang=de/`) are columns.
    Raises:
        ConfigError: naming every shard that is unreadable, lacks a needed column or has it in another kind;
            or a store that does not answer; or a column in types that have none in common.
    """
    look = partial(Look, unit_rows=unit_rows, needed=needed, carried=carried, has_partitions=has_partitions)
    looked = map_files(inspect, [look(index, file, kind) for index, (file, kind) in enumerate(files)])
    shards: list[Shard] = []
    types, lines = _Types(needed, carried), JsonColumns(needed, carried)
    known: dict[pa.Schema | None, int] = {}
    kinds = []
    for (file, kind), result in zip(files, looked, strict=True):
        fault = result if isinstance(result, str) else _column_faults(result[0], result[1], needed, carried)
        if fault or isinstance(result, str):
            shards.append(Shard(len(shards), file, kind, 0, skipped=fault))
            kinds.append(-1)
            continue
        shards.append(result[0])
        schema = result[1] if isinstance(result[1], pa.Schema) else None
        kinds.append(known.setdefault(schema, len(known)))
        if isinstance(result[1], JsonColumns):
            lines.join(result[1])
        else:
            types.add(result[1], file.url)
    _tell_of_bad([shard for shard in shards if shard.skipped], on_bad_shard)
    types.add(lines.schema, "jsonl")
    _tell_of_json(types.schema, carried)
    _tell_of_formats([kind for _, kind in files], shards)
    return Inspection(tuple(shards), types.schema, tuple(kinds))


def _tell_of_bad(shards: Sequence[Shard], on_bad_shard: str) -> None:
    faults = [f"{shard.file.url}: {shard.skipped}" for shard in shards]
    if faults and on_bad_shard == "fail":
        raise ConfigError(f"{len(faults)} bad input file(s): " + "; ".join(faults))
    for fault in faults:
        logger.warning("bad_shard_skipped %s", fault)


def _tell_of_json(schema: pa.Schema, carried: Collection[str] | None) -> None:
    as_text = [f.name for f in schema if f.type == JSON_TEXT and _is_used(f.name, (), carried)]
    if as_text:
        logger.warning(
            "carried_as_json_text columns=%s: their values have no type in common", ",".join(as_text)
        )


def _tell_of_formats(asked: Sequence[str], shards: Sequence[Shard]) -> None:
    """Say what .json files turned out to be."""
    found = Counter(shard.format for shard, kind in zip(shards, asked, strict=True) if kind == "json")
    if found:
        logger.info("json_files arrays=%d one_object_a_line=%d", found["json"], found["jsonl"])


def _shown(kind: pa.DataType) -> str:
    return "of several types" if kind == JSON_TEXT else str(kind)


def _is_used(name: str, needed: Collection[str], carried: Collection[str] | None) -> bool:
    return carried is None or name in needed or name in carried


def _format_of(url: str, format_name: str) -> str:
    if format_name != "auto":
        return format_name
    for name, endings in ENDINGS.items():
        if url.lower().endswith(endings):
            return name
    raise ConfigError(
        f"input.paths: {url} has none of the endings .parquet .pq .jsonl .ndjson .json (the last three also "
        f"with {' '.join(COMPRESSIONS)}); set input.format"
    )


def _column_faults(
    shard: Shard, columns: pa.Schema | JsonColumns, needed: Mapping[str, str], carried: Collection[str] | None
) -> str:
    """What is wrong with a file's columns; empty if nothing is."""
    if shard.num_rows == 0:
        return ""
    schema = columns if isinstance(columns, pa.Schema) else columns.schema
    absent = [name for name in needed if name not in schema.names]
    if absent:
        return f"no column {', '.join(absent)} (it has {', '.join(schema.names) or 'none'})"
    if shard.format != "parquet":
        return ""  # values of the wrong type are error rows there
    twice = [n for n, count in Counter(schema.names).items() if count > 1 and _is_used(n, needed, carried)]
    if twice:
        repair = "" if any(name in needed for name in twice) else ", or leave it out with input.carry"
        return f"more than one column {', '.join(twice)}; rename one{repair}"
    wrong = {name: kind for name, kind in needed.items() if not _fits(schema.field(name).type, kind)}
    return ", ".join(
        f"column {n} is {schema.field(n).type}, not a {kind} column" for n, kind in wrong.items()
    )


def _fits(kind: pa.DataType, wanted: str) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if wanted == "any" or pa.types.is_null(kind):
        return True
    is_text = isinstance(kind, pa.JsonType) or pa.types.is_string(kind) or pa.types.is_large_string(kind)
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    is_a_list = any(is_list(kind) for is_list in lists)
    return {"text": is_text, "list": is_a_list, "messages": is_text or is_a_list}[wanted]
