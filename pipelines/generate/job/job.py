"""A generate job, checked: everything that can be known before an actor starts."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from orthrus_core.errors import ConfigError
from pipelines.checkpoint.adapter import locate_adapter
from pipelines.checkpoint.directory import Checkpoint, load_tokenizer, locate
from pipelines.config.section import flat_options, option_defaults
from pipelines.config.versions import versions
from pipelines.generate.config.compact import CompactConfig, Compression
from pipelines.generate.config.job import GenerateConfig
from pipelines.generate.hooks.hook import Hooks, load_hook
from pipelines.generate.job.checks import check_group_by, check_keep, check_model, check_repair
from pipelines.generate.job.generation_config import resolve
from pipelines.generate.job.params_trial import check_params
from pipelines.generate.job.sizes import with_lengths
from pipelines.generate.ledger.damage import failed_units
from pipelines.generate.ledger.ledger import Ledger, differences, fingerprint
from pipelines.generate.prompt.renderer import PromptRenderer
from pipelines.generate.prompt.unit import needed_columns, read_columns
from pipelines.generate.write.repair import Repair
from pipelines.read.choose_columns import choose_layout
from pipelines.read.columns import TableLayout
from pipelines.read.datasets import exported, local_directories, plain_paths
from pipelines.read.shards import inspect_shards, list_shards
from pipelines.read.units import Plan, Unit, plan_units
from pipelines.storage.config import use_storage
from pipelines.storage.file_info import FileInfo
from pipelines.storage.files import absolute
from pipelines.storage.output_path import check_output

# Options that change neither the rows nor their text: where files are, speed and memory.
NOT_IDENTITY = (
    "input.paths",
    "input.format",
    "input.on_bad_shard",
    "input.on_changed",
    "input.dataset",
    "output.path",
    *(f"output.compression.{name}" for name in Compression.model_fields),
    *(f"output.compact.{name}" for name in CompactConfig.model_fields),
    "decode.max_sequences",
    "decode.memory",
    "decode.num_pages",
    "decode.block_policy",
    "decode.expected_tokens",
    "input.prompt.template_limit_s",
    "sampling.generation_config",  # what it says is in the other options
)
MODEL_IDENTITY = ("dtype", "device", "tensor_parallel", "weights", "quantise_output_head")  # files: a hash
# Options that decide which prompts are errors: --only-failed may change them.
REPAIRS = (
    *("decode.max_context", "input.prompt.overlong", "input.prompt.room"),
    *("input.map_code", "output.map_code"),
)


@dataclass(frozen=True)
class Job:
    """A config and what it stands for.

    Attributes:
        identity: everything that decides the rows' content, flat: name to value.
        units: what is still to be done.
        is_new: whether nothing was stored under the output path yet.
        repair: where units are finished whose error rows alone are to be made again; None: whole units are.
        left: units that this job leaves undone, with `repair` only.
        generation_config: what became of the checkpoint's.
        hooks: functions that rows go through.
        adapter: that is merged into the model.
    """

    config: GenerateConfig
    checkpoint: Checkpoint
    layout: TableLayout
    plan: Plan
    units: tuple[Unit, ...]
    ledger: Ledger
    identity: dict[str, Any]
    is_new: bool
    repair: Repair | None = None
    left: tuple[Unit, ...] = ()
    generation_config: dict[str, Any] = field(default_factory=dict)
    hooks: Hooks = Hooks()
    adapter: Checkpoint | None = None

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
            "generation_config": self.generation_config,
            "engine": engine,
            "rows": self.plan.num_rows,
            "units": len(self.plan.units),
            "inputs": [shard.file.to_dict() for shard in self.plan.shards],
            "skipped_inputs": self.plan.skipped_inputs,
        }

    def repaired_manifest(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """The stored manifest with a note of this repair, and the options that the run has from now on."""
        note = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "units": len(self.units),
            "changed": differences(stored["identity"], self.identity),
        }
        names = ("fingerprint", "identity", "config")
        now = self.manifest()
        return {
            **stored,
            **{name: now[name] for name in names},
            "earlier_fingerprints": sorted({stored["fingerprint"], *stored.get("earlier_fingerprints", [])}),
            "repaired": [*stored.get("repaired", []), note],
        }


def prepare(config: GenerateConfig, *, only_failed: bool = False) -> Job:
    """Check a config against the world and plan the work; starts nothing.

    Args:
        only_failed: the work is the error rows of the units that are finished.
    Raises:
        ConfigError: inputs, model, tokenizer or output are not as the config says.
    """
    use_storage(config.storage)
    check_output(config.output.path, (*plain_paths(config.input), *local_directories(config.input)))
    hooks = load_hooks(config)
    needed = {name: kind for name, kind in needed_columns(config).items() if name not in _made(config)}
    checkpoint = locate(config.model)
    adapter = None if config.model.lora is None else locate_adapter(config.model.lora)
    config, fates = resolve(config, checkpoint.path)
    ledger = Ledger(absolute(config.output.path))
    stored = ledger.manifest()
    config = with_lengths(config, checkpoint, stored)
    check_model(config, checkpoint, adapter)
    new_renderer(config, checkpoint)
    check_params(config, checkpoint)
    is_begun = stored is not None
    exports, datasets = exported(config.input, ledger.run_url, is_begun=is_begun)
    files = list_shards((*plain_paths(config.input), *exports), config.input.format)
    identity = run_identity(config, checkpoint) | hooks.identity
    identity |= {"input.datasets": datasets} if datasets else {}
    identity |= {"model.lora": adapter.model_hash} if adapter is not None else {}
    if stored is not None:
        identity = without_newer_options(identity, stored["identity"])
    may_differ = REPAIRS if only_failed else ()
    on_changed = config.input.on_changed
    plan = ledger.open(identity, [file for file, _ in files], may_differ, on_changed=on_changed)
    is_new = plan is None and not is_begun
    if only_failed:
        check_repair(ledger, config)
    if plan is None:
        plan = _plan_files(config, files, needed)
    if plan.num_rows == 0:
        raise ConfigError(f"input.paths: the files have no rows{_skipped_note(plan)}")
    layout = _layout_of(config, plan)
    check_group_by(config, layout)
    check_keep(config, layout)
    units = tuple(ledger.remaining(plan))
    job = Job(
        config,
        checkpoint,
        layout,
        plan,
        units,
        ledger,
        identity,
        is_new,
        generation_config=fates,
        hooks=hooks,
        adapter=adapter,
    )
    if not only_failed:
        return job
    failed = tuple(failed_units(ledger, plan, units))
    return replace(job, units=failed, left=units, repair=Repair(ledger.data_url, ledger.dropped_url, layout))


def _plan_files(
    config: GenerateConfig, files: Sequence[tuple[FileInfo, str]], needed: Mapping[str, str]
) -> Plan:
    """Look at the files and cut them into units."""
    inspection = inspect_shards(
        files,
        needed=needed,
        unit_rows=config.run.unit_rows,
        on_bad_shard=config.input.on_bad_shard,
        carried=config.input.carry if config.input.map is None else None,  # the function sees every column
        has_partitions=config.input.hive_partitions,
    )
    return plan_units(inspection, config.run.unit_rows, pack=config.input.pack_files)


def _layout_of(config: GenerateConfig, plan: Plan) -> TableLayout:
    """Decide which columns the run reads, carries and writes."""
    schema = pa.schema([one for one in plan.schema if one.name not in _made(config)] + [*config.input.made])
    layout = choose_layout(
        schema,
        needed=read_columns(config, schema.names),
        carry=config.input.carry,
        id_column=config.input.id_column,
        completions=bool(config.input.prompt.turns),
        token_ids=config.output.token_ids,
        prompt_token_ids=config.output.prompt_token_ids,
        logprobs=bool(config.sampling.logprobs),
        top_logprobs=config.sampling.num_top_logprobs > 0,
        prompt_logprobs=config.sampling.prompt_logprobs,
        seed_column=config.sampling.columns.seed,
        diagnostics=config.output.diagnostics,
        rename=config.output.rename,
        made=config.output.made,
    )
    if config.input.map is None:
        return layout
    return replace(layout, read=tuple(plan.schema.names))


def load_hooks(config: GenerateConfig) -> Hooks:
    """The functions that a config names.

    Raises:
        ConfigError: one is not to be found, or cannot be sent to workers.
    """
    sections = {"input.map": config.input, "output.map": config.output}
    return Hooks(*(load_hook(option, one.map, one.made) for option, one in sections.items()))


def _made(config: GenerateConfig) -> list[str]:
    return list(config.input.map_columns)


def _skipped_note(plan: Plan) -> str:
    skipped = plan.skipped_inputs
    return f"; {len(skipped)} were skipped: {skipped[0]['url']}: {skipped[0]['reason']}" if skipped else ""


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
        identity |= flat_options(getattr(config, name), f"{name}.")
    for name in [name for name in identity if name.startswith("input.dataset.")]:
        del identity[name]  # "input.datasets" says more
    for name in NOT_IDENTITY:
        identity.pop(name, None)
    identity |= {"run.unit_rows": config.run.unit_rows}
    return identity | {f"model.{key}": getattr(config.model, key) for key in MODEL_IDENTITY}


def without_newer_options(identity: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    """An identity as the version says it with which a run was begun: without what that did not know.

    An option that came later counts where it has another value than its default.
    """
    defaults = option_defaults(GenerateConfig)
    return {
        name: value
        for name, value in identity.items()
        if name in stored or name not in defaults or value != defaults[name]
    }
