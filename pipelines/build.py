"""From a checked job to a Ray dataset, and the run of it."""

import contextlib
import json
import logging
import math
import os
import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from orthrus_core.errors import ConfigError, OrthrusError
from pipelines.config import RunConfig
from pipelines.failures import FailureNotes
from pipelines.generate import ActorSpec, EngineFactory, GenerateActor, load_engine
from pipelines.job import Job
from pipelines.ledger import check_counts
from pipelines.progress import Progress
from pipelines.prompts import render_unit
from pipelines.report import RunTimes, data_card, run_report
from pipelines.sink import SUMMARY, commit_unit, read_footer
from pipelines.source import UnitSource
from pipelines.storage import join, map_files

if TYPE_CHECKING:
    from ray.data import Dataset

logger = logging.getLogger(__name__)

STAGE_CPUS = 0.25  # of reading and writing; small, so that a machine with 2 CPUs runs all stages at once
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_worker_niceness": "0",  # Ray's 15 starves a local run beside anything else on the machine
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TOKENIZERS_PARALLELISM": "false",
}


def run_job(job: Job, progress: Progress, engine_factory: EngineFactory = load_engine) -> dict[str, Any]:
    """Do what is left of a job, check that rows out = rows in, and store the report.

    Args:
        progress: told of every unit.
        engine_factory: another engine, for tests.
    Returns:
        The report, as stored in `_run/report.json`.
    Raises:
        ConfigError: the machine or the checkpoint does not fit the config.
        OrthrusError: the job failed; what is committed stays, and the same command goes on from there.
    """
    started_at = time.perf_counter()
    times = RunTimes()
    if job.units:
        with ray_session(job.config.run):
            times.ray_s = time.perf_counter() - started_at
            _generate(job, progress, engine_factory, times)
    footers = map_files(read_footer, [job.ledger.unit_url(unit) for unit in job.plan.units])
    check_counts(job.plan.units, [footer["rows"] for footer in footers])
    times.wall_s = time.perf_counter() - started_at
    manifest = job.ledger.manifest() or {}
    report = run_report(job, [footer["counts"] for footer in footers], times, manifest.get("engine"))
    job.ledger.finish(report, data_card(job, report))
    return report


@contextlib.contextmanager
def ray_session(run: RunConfig) -> Iterator[None]:
    """Join the cluster, or start a local one, and leave it at the end.

    Raises:
        ConfigError: the address does not answer.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    local: dict[str, Any] = {
        "include_dashboard": False,
        "num_cpus": max(os.cpu_count() or 1, _cpus_needed(run)),
    }
    if ray.is_initialized():
        yield
        return
    try:
        if run.ray_address == "local":
            ray.init(address="local", **local, **quiet)
        else:
            _join_or_start(run.ray_address, local, quiet)
    except (ConnectionError, ValueError) as error:
        raise ConfigError(f"run.ray_address {run.ray_address}: {' '.join(str(error).split())}") from error
    try:
        yield
    finally:
        ray.shutdown()


def build_dataset(job: Job, spec: ActorSpec, engine_factory: EngineFactory = load_engine) -> "Dataset":
    """The dataset whose rows are summaries of committed units; nothing runs until it is iterated."""
    import ray
    from ray.data import ActorPoolStrategy

    run = job.config.run
    calls = run.calls_in_flight or default_calls_in_flight(run.unit_rows, job.config.decode.max_sequences)
    strategy = ActorPoolStrategy(
        size=min(run.actors, len(job.units)),
        max_concurrent_calls_per_actor=calls,
        max_tasks_in_flight_per_actor=calls + 1,
    )
    whole_blocks: dict[str, Any] = {"batch_size": None, "batch_format": "pyarrow"}
    units = ray.data.read_datasource(
        UnitSource(job.plan, job.units, job.layout),
        override_num_blocks=len(job.units),
        num_cpus=STAGE_CPUS,
    )
    prompts = units.map_batches(
        render_unit,
        fn_args=(job.config, job.checkpoint.path, job.layout),
        num_cpus=STAGE_CPUS,
        **whole_blocks,
    )
    completions = prompts.map_batches(
        GenerateActor,
        compute=strategy,
        fn_constructor_args=(spec, engine_factory),
        num_cpus=run.cpus_per_actor,
        num_gpus=_gpus_per_actor(run, spec.device),
        **whole_blocks,
    )
    return completions.map_batches(
        commit_unit,
        fn_args=(job.ledger.data_url, job.layout, job.fingerprint),
        num_cpus=STAGE_CPUS,
        **whole_blocks,
    )


def default_calls_in_flight(unit_rows: int, max_sequences: int) -> int:
    """Units an actor holds at once: two, plus what it takes to have twice `max_sequences` rows waiting.

    Two keep the engine busy while the last rows of a unit finish; more would only bind units to an actor that
    another one could have taken at the end of the job.
    """
    return 2 + math.ceil(2 * max_sequences / unit_rows)


def _generate(job: Job, progress: Progress, engine_factory: EngineFactory, times: "RunTimes") -> None:
    from ray.data import DataContext

    spec = _actor_spec(job)
    manifest = job.manifest() if job.is_new else (job.ledger.manifest() or job.manifest())
    job.ledger.start(job.plan, manifest)
    context = DataContext.get_current().copy()
    _set_options(context, job.config.run)
    with DataContext.current(context), progress:
        dataset = build_dataset(job, spec, engine_factory)
        try:
            for summary in _summaries(dataset):
                progress.add(summary)
                times.add(summary)
                if manifest["engine"] is None:
                    manifest["engine"] = _constant_facts(summary["engine"])
                    job.ledger.write_manifest(manifest)
        except Exception as error:  # Ray wraps whatever a stage raised
            raise _explain_failure(error, spec.failures) from error


def _summaries(dataset: "Dataset") -> Iterator[dict[str, Any]]:
    """Run a dataset; one summary for each unit as it is committed."""
    for batch in dataset.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
        yield from map(json.loads, batch[SUMMARY])


def _actor_spec(job: Job) -> ActorSpec:
    config = job.config
    device = _device(config.model.device)
    stored = ((job.ledger.manifest() or {}).get("engine") or {}).get("device")
    if stored is not None and stored.split(":")[0] != device:
        raise ConfigError(
            f"model.device: output.path was begun on {stored}, this machine would go on on {device}; "
            "texts could differ, choose another output.path"
        )
    threads = config.run.threads_per_actor or max(1, int(config.run.cpus_per_actor))
    return ActorSpec(
        checkpoint=job.checkpoint,
        dtype=config.model.dtype,
        device=device,
        threads=threads,
        decode=config.decode,
        sampling=config.sampling,
        layout=job.layout,
        failures=FailureNotes(
            join(job.ledger.run_url, "failures", time.strftime("%Y%m%dT%H%M%S")), job.ledger.data_url
        ),
        retries=config.run.retries,
    )


def _device(asked: str) -> str:
    import ray

    if asked != "auto":
        return asked
    return "cuda" if ray.cluster_resources().get("GPU", 0) >= 1 else "cpu"


def _gpus_per_actor(run: RunConfig, device: str) -> float:
    if run.gpus_per_actor is not None:
        return run.gpus_per_actor
    return 1.0 if device == "cuda" else 0.0


def _cpus_needed(run: RunConfig) -> int:
    return math.ceil(run.actors * run.cpus_per_actor + 2 * STAGE_CPUS)


def _join_or_start(address: str | None, local: dict[str, Any], quiet: dict[str, Any]) -> None:
    """As plain `ray.init()`: a running cluster if there is one, else a new local one."""
    import ray

    try:
        ray.init(address=address or "auto", **quiet)
    except ConnectionError:
        if address is not None or "RAY_ADDRESS" in os.environ:
            raise
        ray.init(address="local", **local, **quiet)


def _set_options(context: Any, run: RunConfig) -> None:
    """Ray Data's options for this job."""
    for handler in logging.getLogger("ray.data").handlers:
        if handler.get_name() == "console":  # the file in Ray's log directory keeps everything
            handler.setLevel(logging.WARNING)
            handler.addFilter(_is_not_about_progress_bars)
    context.target_max_block_size = None  # a unit stays one block, however large
    context.execution_no_progress_timeout_s = -1  # a unit of long texts may take longer than half an hour
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.retried_map_errors = True  # storage that fails for a moment; bad rows never raise
    context.max_map_retries = run.retries


def _is_not_about_progress_bars(record: logging.LogRecord) -> bool:
    return "Progress bars disabled" not in record.getMessage()


_CONFIG_FAULT = re.compile(r"(?:^|[\s.])(?:ConfigError|CheckpointError): (.+)")
_FAULT = re.compile(r"(?:^|[\s.])OrthrusError: (.+)")


def _explain_failure(error: Exception, failures: FailureNotes) -> OrthrusError:
    """The reason in one line: what a stage raised, or what an actor wrote down before it ended itself."""
    text = str(error)
    if stated := _CONFIG_FAULT.findall(text):
        return ConfigError(stated[-1].strip())
    lines = [line for line in text.split("\n") if line.strip()]
    last = lines[-1].strip() if lines else type(error).__name__
    stated = _FAULT.findall(text)
    reason = stated[-1].strip() if stated else failures.last_reason() or last
    return OrthrusError(f"{reason}; finished units are kept, the same command goes on from there")


def _constant_facts(engine: dict[str, Any]) -> dict[str, Any]:
    """Of an engine's report, what does not change while it runs."""
    names = ("mode", "exactness", "token_budget", "block_size", "page_size", "num_pages", "dtype", "device")
    return {name: engine.get(name) for name in names}
