"""What an actor needs to know, resolved by the driver."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from orthrus_core.engine.config import EngineConfig
from orthrus_core.errors import ConfigError
from orthrus_core.readiness.device_memory import DeviceMemory
from pipelines.checkpoint.directory import Checkpoint
from pipelines.cluster.board import Board
from pipelines.cluster.failures import FailureNotes
from pipelines.cluster.resources import check_gpus, resolve_device
from pipelines.generate.audit.plan import AuditPlan, plan_audit
from pipelines.generate.config.job import GenerateConfig
from pipelines.generate.config.prompt import PromptConfig
from pipelines.generate.config.sampling import SamplingConfig
from pipelines.generate.job.job import Job
from pipelines.generate.job.preview import first_rows
from pipelines.generate.job.sizes import choose_sizes, memory_here
from pipelines.generate.prompt.unit import render_unit
from pipelines.read.columns import PROMPT_IDS, TableLayout
from pipelines.storage.config import StorageConfig
from pipelines.storage.files import join

TRIAL_ROWS = 4
EXPECTED_SHARE = 0.5  # of max_new_tokens, for the choice whether torch.compile pays

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ActorSpec:
    """Everything an actor needs to know, resolved by the driver.

    Attributes:
        dtype: "auto" or a torch dtype's name.
        device: "cpu" or "cuda".
        threads: torch threads.
        failures: where an actor that ends itself says why.
        retries: restarts in a row without a finished unit between them, after which the job gives up.
        storage: how to reach the model and the notes.
        dedup_tokens: tokens of finished completions that are kept for copies; None: every row is generated.
        group_prefixes: whether rows of a unit that begin alike enter the engine together.
        board: where driver and engines meet; None: units begin unasked and figures go nowhere, for tests.
        run: names the run in metrics.
        audit: which rows are decoded again.
        session: when the driver started, seconds since 1970; units of one session have the same.
        step_timeout_s: seconds after which a step of the engine is taken to hang; None: never.
        adapter: that is merged into the model; None: none is.
        prompt: makes the prompts of later turns; None: rows have one turn.
        tensor_parallel: ranks that share the model.
        weights: "auto", or what the model's linear layers are made into; so is `quantise_output_head`.
        trial_prompts: token ids of a few rows, on which drafts are compared with those of the model as it is.
    """

    checkpoint: Checkpoint
    dtype: str
    device: str
    threads: int
    decode: EngineConfig
    sampling: SamplingConfig
    layout: TableLayout
    failures: FailureNotes
    retries: int
    storage: StorageConfig = StorageConfig()
    dedup_tokens: int | None = None
    group_prefixes: bool = True
    board: Board | None = None
    run: str = ""
    audit: AuditPlan = AuditPlan()
    session: float = 0.0
    step_timeout_s: float | None = None
    adapter: Checkpoint | None = None
    prompt: PromptConfig | None = None
    tensor_parallel: int = 1
    weights: Literal["auto", "int8", "fp8"] = "auto"
    quantise_output_head: bool = False
    trial_prompts: Sequence[Sequence[int]] = ()


def new_actor_spec(job: Job, *, is_local: bool) -> ActorSpec:
    """What an actor needs to know.

    Raises:
        ConfigError: not enough GPUs, or the run was begun on another device.
    """
    config = job.config
    device = resolve_device(config.model.device)
    check_gpus(config.run, device, config.model.tensor_parallel, is_local=is_local)
    manifest = job.ledger.manifest() or {}
    stored = manifest.get("engine") or {}
    if stored and stored["device"].split(":")[0] != device:
        raise ConfigError(
            f"model.device: output.path was begun on {stored['device']}, this machine would go on on "
            f"{device}; texts could differ, choose another output.path"
        )
    facts = stored | manifest.get("engine_sizes", {})
    decode = decode_options(config, facts, num_rows=sum(unit.num_rows for unit in job.units))
    decode = sized_options(job, decode, device, memory_here(device) if is_local else None)
    notes = join(job.ledger.run_url, "failures", time.strftime("%Y%m%dT%H%M%S"))
    return replace(
        actor_spec(job, device, decode),
        failures=FailureNotes(notes, job.ledger.data_url),
        audit=plan_audit(job),
        session=time.time(),
        trial_prompts=trial_prompts(job),
    )


def actor_spec(job: Job, device: str, decode: EngineConfig) -> ActorSpec:
    """What the config alone says to an actor."""
    config = job.config
    return ActorSpec(
        checkpoint=job.checkpoint,
        dtype=config.model.dtype,
        device=device,
        threads=config.run.threads_per_actor or max(1, int(config.run.cpus_per_actor)),
        decode=decode,
        sampling=config.sampling,
        layout=job.layout,
        failures=FailureNotes(job.ledger.run_url, job.ledger.data_url),
        retries=config.run.retries,
        storage=config.storage,
        dedup_tokens=config.run.dedup_tokens if config.run.dedup else None,
        group_prefixes=config.run.group_prefixes,
        step_timeout_s=config.run.step_timeout_s,
        adapter=job.adapter,
        prompt=config.input.prompt if config.input.prompt.turns else None,
        tensor_parallel=config.model.tensor_parallel,
        weights=config.model.weights,
        quantise_output_head=config.model.quantise_output_head,
    )


def trial_prompts(job: Job) -> list[list[int]]:
    """Prompts of the first rows, where drafts may suffer from quantised weights; else none."""
    if job.config.model.weights == "auto" or job.config.decode.mode != "consensus":
        return []
    try:
        rows = first_rows(job, job.plan.units[0], TRIAL_ROWS)
        rendered = render_unit(rows, job.config, job.checkpoint.source, job.layout, hook=job.hooks.input)
    except Exception as error:  # of a bad shard or a function of the user's: the run itself speaks of it
        logger.warning("drafts are not tried on the quantised model, the first rows fail: %r", error)
        return []
    return [prompt for prompt in rendered.column(PROMPT_IDS).to_pylist()[:TRIAL_ROWS] if prompt]


def decode_options(config: GenerateConfig, stored: Mapping[str, Any], *, num_rows: int) -> EngineConfig:
    """Return the engine's options: a run that was begun goes on with the budgets and kernels it had.

    Args:
        stored: the engine's facts and sizes in the manifest; empty before the first unit.
        num_rows: rows left to do.
    Raises:
        ConfigError: max_sequences has grown past the largest budget of the run.
    """
    decode = config.decode
    num_tokens = int(
        num_rows * config.sampling.n * config.sampling.max_new_tokens * EXPECTED_SHARE / config.run.actors
    )
    if not stored:
        return decode.model_copy(update={"expected_tokens": decode.expected_tokens or num_tokens})
    if decode.max_sequences > stored["token_budget"]:
        raise ConfigError(
            f"decode.max_sequences must be <= {stored['token_budget']}, the token budget that output.path "
            f"was begun with, got {decode.max_sequences}"
        )
    sequences = decode.max_sequences or stored.get("max_sequences", 0)
    return fixed_to(decode, stored).model_copy(update={"max_sequences": sequences})


def fixed_to(decode: EngineConfig, settings: Mapping[str, Any]) -> EngineConfig:
    """Return the options of an engine with these settings of another one's report."""
    return decode.model_copy(
        update={
            "token_budget": settings["token_budget"],
            "budgets": tuple(settings["budgets"]),
            "compile": "on" if settings["compiled"] else "off",
            "linear": settings.get("linear") or "plain",  # runs of before there was a choice
        }
    )


def sized_options(job: Job, decode: EngineConfig, device: str, memory: DeviceMemory | None) -> EngineConfig:
    """Return the engine's options with the number of sequences, the same for every actor of the run.

    Pages are left to each engine, which sees what its device has beside the weights.

    Args:
        memory: of the device; None: not to be seen from here.
    Raises:
        ConfigError: the model does not fit the device.
    """
    config = job.config.model_copy(update={"decode": decode})
    rows = sum(unit.num_rows for unit in job.units)
    sized = choose_sizes(config, job.checkpoint, device, memory, num_rows=rows).decode
    return sized.model_copy(update={"num_pages": decode.num_pages})
