"""From a checked job to a Ray dataset, and the run of it."""

import contextlib
import logging
import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from orthrus_core.errors import OrthrusError
from pipelines.cluster.board import open_board
from pipelines.cluster.failures import explain_failure
from pipelines.cluster.lock import RunLock
from pipelines.cluster.noise import quiet_stderr
from pipelines.cluster.ray_data import WHOLE_BLOCKS, set_options
from pipelines.cluster.resources import STAGE_CPUS, gpus_per_actor
from pipelines.cluster.session import RaySession
from pipelines.command.signals import INTERRUPTED, Interrupted, StopSignals
from pipelines.command.wording import count_of
from pipelines.generate.decode.actor import EngineFactory, GenerateActor, load_engine
from pipelines.generate.decode.spec import ActorSpec, new_actor_spec
from pipelines.generate.job.job import Job
from pipelines.generate.job.manifest import note_engine, open_manifest
from pipelines.generate.ledger.accounts import settle
from pipelines.generate.prompt.unit import render_unit
from pipelines.generate.report.figures import RunTimes, run_report
from pipelines.generate.report.store import finish_run, interrupted, store_failure, store_report
from pipelines.generate.watch.drain import Drain, summaries
from pipelines.generate.watch.progress import Progress
from pipelines.generate.watch.run_log import RunLog
from pipelines.generate.watch.warnings import RunWarnings
from pipelines.generate.write.id_hashes import kept_share
from pipelines.generate.write.sink import RowPolicy, commit_unit
from pipelines.read.source import UnitSource

if TYPE_CHECKING:
    from ray.data import Dataset


logger = logging.getLogger(__name__)


def run_job(
    job: Job,
    progress: Progress,
    engine_factory: EngineFactory = load_engine,
    stop: StopSignals | None = None,
    session: RaySession | None = None,
    log: RunLog | None = None,
) -> dict[str, Any]:
    """Do what is left of a job, check that rows out = rows in, and store the report.

    Args:
        progress: told of every unit.
        engine_factory: another engine, for tests.
        stop: asks for the run to be drained.
        session: begun already, to save its time; None: one is begun here.
        log: that has collected what was logged so far; None: one begins here.
    Returns:
        The report, as stored in `_run/report.json`; its exit code is not 0 where the audit found a mismatch.
    Raises:
        ConfigError: the machine or the checkpoint does not fit the config, or another driver is at work on
            the output.
        OrthrusError: the job failed; what is committed stays, and the same command goes on from there.
        Interrupted: it was stopped from outside, drained or at once; the same holds.
    """
    if not job.units and not job.left and (report := job.ledger.finished_report()) is not None:
        logger.info("nothing left to do: %s is complete", job.ledger.url)
        return report
    started_at = time.perf_counter()
    stop = stop or StopSignals()
    times = RunTimes()
    session, log = session or RaySession(job.config.run), log or RunLog()
    run_url = job.ledger.run_url
    with contextlib.closing(session), RunLock(run_url) as lock, log.kept(run_url):
        try:
            if job.units:
                with stop.deferred(), session as is_local:
                    stop.install_again()  # for Ray may have put handlers of its own
                    times.ray_s = time.perf_counter() - started_at
                    if stop.requested.is_set():
                        raise Interrupted("stopped before it began")
                    spec = new_actor_spec(job, is_local=is_local)
                    spec = replace(spec, board=spec.board or open_board(), run=job.fingerprint)
                    _generate(job, spec, progress, times, engine_factory, lock, stop)
            return _finish(job, times, started_at)
        except (OrthrusError, OSError) as error:  # OSError: storage that fails under the driver's own hands
            times.wall_s = time.perf_counter() - started_at
            raise store_failure(job, times, error) from error
        except KeyboardInterrupt as error:
            times.wall_s = time.perf_counter() - started_at
            raise interrupted(job, times, error) from None


def _finish(job: Job, times: RunTimes, started_at: float) -> dict[str, Any]:
    """Check that rows out = rows in, and store the report."""
    left = set(job.left)
    job.ledger.reopen()
    sums = settle(job.ledger, [unit for unit in job.plan.units if unit not in left], job.fingerprint)
    times.wall_s = time.perf_counter() - started_at
    if not left:
        return finish_run(job, sums, times)
    reason = (
        f"{count_of(len(left), 'unit')} left to generate; the same command without --only-failed does that"
    )
    report = run_report(
        job, sums, times, job.ledger.manifest(), status="interrupted", exit_code=INTERRUPTED, reason=reason
    )
    store_report(job, report)
    return report


def build_dataset(job: Job, spec: ActorSpec, engine_factory: EngineFactory = load_engine) -> "Dataset":
    """The dataset whose rows are summaries of committed units; nothing runs until it is iterated.

    `pipelines.cluster.ray_data` says why it is built with these calls and options.
    """
    import ray
    from ray.data import ActorPoolStrategy, TaskPoolStrategy

    run = job.config.run
    calls = run.calls_in_flight or default_calls_in_flight(run.unit_rows, spec.decode.max_sequences)
    strategy = ActorPoolStrategy(
        min_size=min(run.actors, len(job.units)),
        max_size=min(run.most_actors, len(job.units)),
        max_concurrent_calls_per_actor=calls,
        max_tasks_in_flight_per_actor=calls + 1,
    )
    # On a CPU the engines need the cores: every further reader is a process that imports for 6 CPU seconds.
    readers = TaskPoolStrategy(size=run.most_actors if spec.device == "cpu" else None)
    units = ray.data.read_datasource(
        UnitSource(job.plan, job.units, job.layout, job.config.storage),
        override_num_blocks=len(job.units),
        compute=readers,
        num_cpus=STAGE_CPUS,
    )
    prompts = units.map_batches(
        render_unit,
        fn_args=(job.config, job.checkpoint.source, job.layout, job.repair, job.hooks.input),
        compute=readers,
        num_cpus=STAGE_CPUS,
        **WHOLE_BLOCKS,
    )
    completions = prompts.map_batches_internal(
        GenerateActor,
        compute=strategy,
        fn_constructor_args=(spec, engine_factory),
        num_cpus=run.cpus_per_actor,
        num_gpus=gpus_per_actor(run, spec.device, spec.tensor_parallel),
        **WHOLE_BLOCKS,
    )
    return completions.map_batches(
        commit_unit,
        fn_args=(job.ledger.data_url, job.layout, job.fingerprint),
        fn_kwargs={
            "policy": _row_policy(job),
            "storage": job.config.storage,
            "on_bad_shard": job.config.input.on_bad_shard,
        },
        num_cpus=STAGE_CPUS,
        **WHOLE_BLOCKS,
    )


def _row_policy(job: Job) -> RowPolicy:
    """What becomes of rows on their way to the files."""
    return RowPolicy(
        job.ledger.dropped_url,
        job.config.output.filters,
        job.repair,
        job.config.report.group_by,
        job.ledger.manifest_url,
        kept_share(job.plan.num_rows) if job.config.input.id_column else 0.0,
        job.hooks.output,
        job.config.output.compression,
    )


def default_calls_in_flight(unit_rows: int, max_sequences: int) -> int:
    """Units an actor holds at once: two, plus what it takes to have twice `max_sequences` rows waiting.

    Two keep the engine busy while the last rows of a unit finish; more would only bind units to an actor that
    another one could have taken at the end of the job.
    """
    return 2 + math.ceil(2 * max_sequences / unit_rows)


def _generate(
    job: Job,
    spec: ActorSpec,
    progress: Progress,
    times: RunTimes,
    engine_factory: EngineFactory,
    lock: RunLock,
    stop: StopSignals,
) -> None:
    """Run the dataset over the units that are left; each is committed when its summary comes back.

    Raises:
        Interrupted: the run was drained, and units are left.
    """
    from ray.data import DataContext

    manifest = open_manifest(job)
    job.ledger.start(job.plan, manifest)
    context = DataContext.get_current().copy()
    set_options(context, job.config.run)
    board, num_left = spec.board, len(job.units)
    assert board is not None
    warnings = RunWarnings(spec.failures, job.config.run.most_actors)
    drain = Drain(board.stop, job.config.run.drain_s, progress.note)
    progress.watch(board.look)
    with DataContext.current(context), progress, quiet_stderr():
        unreadable: list[str] = []
        dataset = build_dataset(job, spec, engine_factory)
        try:
            for summary in summaries(dataset, drain, stop.requested):
                lock.check()
                if summary is None:
                    continue
                num_left -= 1
                if "unreadable" in summary:
                    unreadable.append(summary["unreadable"])
                    continue
                progress.add(summary)
                times.add(summary)
                warnings.look(summary)
                note_engine(job, manifest, summary["engine"])
        except OrthrusError:
            raise
        except Exception as error:  # Ray wraps whatever a stage raised
            raise explain_failure(error, spec.failures) from error
        finally:
            board.close()
    if unreadable:
        raise OrthrusError(
            f"{len(unreadable)} unit(s) not done, all others are: {'; '.join(unreadable[:5])}. Repair the "
            "input, or set input.on_bad_shard: skip"
        )
    if num_left and stop.requested.is_set():
        raise Interrupted("drained")
