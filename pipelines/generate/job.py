"""A generate job, checked: everything that can be known before an actor starts."""

import importlib.metadata
import platform
import time
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pydantic import BaseModel

from orthrus_core.errors import ConfigError
from orthrus_core.models.loading import load_config as load_model_config
from pipelines.checkpoint import Checkpoint, load_tokenizer, locate
from pipelines.generate.columns import TableLayout, choose_layout
from pipelines.generate.config import GenerateConfig
from pipelines.generate.ledger import Ledger, Plan, Unit, fingerprint, plan_units
from pipelines.generate.prompts import PromptRenderer, RenderedRow, needed_columns, render_rows
from pipelines.generate.shards import inspect_shards, list_shards
from pipelines.generate.source import column_types, read_unit
from pipelines.storage import absolute

# Options that change neither the rows nor their text: where files are, speed and memory.
NOT_IDENTITY = (
    "input.paths",
    "input.format",
    "output.path",
    "decode.max_sequences",
    "decode.num_pages",
    "decode.block_policy",
    "decode.expected_tokens",
)
PACKAGES = ("orthrus", "torch", "transformers", "tokenizers", "ray", "pyarrow")


@dataclass(frozen=True)
class Job:
    """A config and what it stands for.

    Attributes:
        identity: everything that decides the rows' content, flat: name to value.
        units: what is still to be done.
        is_new: whether nothing was stored under the output path yet.
    """

    config: GenerateConfig
    checkpoint: Checkpoint
    layout: TableLayout
    plan: Plan
    units: tuple[Unit, ...]
    ledger: Ledger
    identity: dict[str, Any]
    is_new: bool

    @property
    def fingerprint(self) -> str:
        """Short hash of the identity."""
        return fingerprint(self.identity)

    def manifest(self, engine: dict[str, Any] | None = None) -> dict[str, Any]:
        """What `_run/manifest.json` says.

        Args:
            engine: the engine's own report, once there is one.
        """
        return {
            "format": 1,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "fingerprint": self.fingerprint,
            "identity": self.identity,
            "config": self.config.model_dump(mode="json"),
            "model": {"path": self.config.model.path, "revision": self.checkpoint.revision},
            "versions": versions(),
            "engine": engine,
            "rows": self.plan.num_rows,
            "units": len(self.plan.units),
            "inputs": [shard.file.to_dict() for shard in self.plan.shards],
        }


@dataclass(frozen=True)
class Preview:
    """What a dry run shows of the data: (prompt text or None, rendered row) of a few rows."""

    rows: tuple[tuple[str | None, RenderedRow], ...]


def prepare(config: GenerateConfig) -> Job:
    """Check a config against the world and plan the work; starts nothing.

    Raises:
        ConfigError: inputs, model, tokenizer or output are not as the config says.
    """
    needed = needed_columns(config)
    checkpoint = locate(config.model)
    _check_model(config, checkpoint)
    new_renderer(config, checkpoint)
    files = list_shards(config.input.paths, config.input.format)
    ledger = Ledger(absolute(config.output.path))
    identity = run_identity(config, checkpoint)
    plan = ledger.open(identity, [file for file, _ in files])
    is_new = plan is None and ledger.manifest() is None
    if plan is None:
        unit_rows = config.run.unit_rows
        plan = plan_units(inspect_shards(files, needed=needed, unit_rows=unit_rows), unit_rows)
    if plan.num_rows == 0:
        raise ConfigError("input.paths: the files have no rows")
    layout = choose_layout(
        plan.schema,
        needed=[*needed],
        carry=config.input.carry,
        id_column=config.input.id_column,
        token_ids=config.output.token_ids,
        prompt_token_ids=config.output.prompt_token_ids,
        logprobs=config.sampling.logprobs,
    )
    units = tuple(ledger.remaining(plan))
    return Job(config, checkpoint, layout, plan, units, ledger, identity, is_new)


def preview(job: Job, num_prompts: int = 3) -> Preview:
    """Read the first row of every shard, and render the first few rows of the first unit.

    Raises:
        ConfigError: a shard whose rows cannot be read.
    """
    first_units = [unit for unit in job.plan.units if unit.index == 0]
    faults: list[str] = []
    tables: list[pa.Table] = []
    for unit in first_units:
        try:
            tables.append(_first_rows(job, unit, num_prompts if not tables else 1))
        except Exception as error:  # any reader's error makes it a bad shard
            faults.append(f"{job.plan.shards[unit.shard].file.url}: {' '.join(str(error).split())}")
    if faults:
        raise ConfigError(f"{len(faults)} bad input file(s): " + "; ".join(faults))
    renderer = new_renderer(job.config, job.checkpoint)
    rows = render_rows(tables[0], renderer, job.config)
    texts = [renderer.decode(row.prompt_ids) if row.prompt_ids else None for row in rows]
    return Preview(tuple(zip(texts, rows, strict=True)))


def new_renderer(config: GenerateConfig, checkpoint: Checkpoint) -> PromptRenderer:
    """The prompt renderer that this job's read tasks use.

    Raises:
        ConfigError: tokenizer and prompt options do not fit together.
    """
    return PromptRenderer(load_tokenizer(checkpoint.path), config.input.prompt, config.decode.max_context)


def run_identity(config: GenerateConfig, checkpoint: Checkpoint) -> dict[str, Any]:
    """Everything but the input files that decides the rows' content, flat: dotted name to value."""
    identity: dict[str, Any] = {
        "model.hash": checkpoint.model_hash,
        "tokenizer.hash": checkpoint.tokenizer_hash,
    }
    for name in ("input", "decode", "sampling", "output"):
        identity |= _flat(getattr(config, name), name)
    for name in NOT_IDENTITY:
        del identity[name]
    identity |= {"run.unit_rows": config.run.unit_rows}
    return identity | {f"model.{key}": getattr(config.model, key) for key in ("dtype", "device")}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter to the result."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _check_model(config: GenerateConfig, checkpoint: Checkpoint) -> None:
    """Refuse what the engine would refuse, minutes earlier."""
    decode = config.decode
    model = load_model_config(checkpoint.path, needs_head=decode.mode == "consensus")
    if decode.mode == "consensus" and decode.block_size is not None and decode.block_size > model.block_size:
        raise ConfigError(
            f"decode.block_size must be <= {model.block_size}, the head's own, got {decode.block_size}"
        )
    if decode.max_context > model.max_position_embeddings:
        raise ConfigError(
            f"decode.max_context must be <= {model.max_position_embeddings}, the model's positions, "
            f"got {decode.max_context}"
        )


def _first_rows(job: Job, unit: Unit, count: int) -> pa.Table:
    """The first rows of a shard; of jsonl, cut from its first unit."""
    types, shard = column_types(job.plan, job.layout), job.plan.shards[unit.shard]
    if shard.format == "parquet":
        return read_unit(shard, Unit(unit.shard, 0, 0, min(count, unit.num_rows)), types)
    return read_unit(shard, unit, types).slice(0, count)


def _flat(section: BaseModel, prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            flat |= _flat(value, f"{prefix}.{name}")
        else:
            flat[f"{prefix}.{name}"] = value
    return flat
