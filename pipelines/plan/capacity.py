"""Capacity of a generate job: what its data and model ask for, and what devices make of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from orthrus_core.errors import ConfigError
from orthrus_core.evaluation.capacity import (
    ActorMemory,
    Work,
    WorkTime,
    actor_memory,
    sequences_that_fit,
    token_budget,
    work_time,
)
from orthrus_core.evaluation.cost import Hardware, ModelShape
from orthrus_core.evaluation.curve import AcceptanceCurve
from orthrus_core.models.loading import load_config as load_model_config
from pipelines.config import load_config
from pipelines.generate.config import GenerateConfig
from pipelines.generate.job import Job, prepare
from pipelines.plan.config import JobSection
from pipelines.plan.workload import EarlierRun, Prompts, earlier_run, sample_prompts, work_left

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
SECONDS_PER_HOUR = 3600


class _Size(TypedDict):
    """What decides the token budget beside the engine's options."""

    block_size: int
    device_type: str


@dataclass(frozen=True)
class Fleet:
    """A number of devices at the job.

    Attributes:
        gpus: devices (machines, where actors run on CPUs).
        actors: engines on them; 0 where one needs more devices.
        hours: from the first actor's start to the end; infinite without actors.
        price: of these hours; None without a price or actors.
    """

    gpus: int
    actors: int
    hours: float
    price: float | None


@dataclass(frozen=True)
class Capacity:
    """All that is known about a job before it runs.

    Attributes:
        job: checked; its output may hold finished units, which are not counted again.
        prompts: lengths of a sample.
        work: what is left to do.
        is_upper_bound: completions are taken to be as long as max_new_tokens allows.
        shape: of the model.
        T: token budget of an actor.
        memory: of an actor. sequences_fit: most max_sequences on the device; None if its memory is unknown.
        time: of one actor that does everything.
        fleets: one per asked number of GPUs.
        deadline: the smallest fleet that meets it; None without a deadline, or where none does.
    """

    job: Job
    prompts: Prompts
    work: Work
    is_upper_bound: bool
    shape: ModelShape
    T: int
    memory: ActorMemory
    sequences_fit: int | None
    time: WorkTime
    fleets: tuple[Fleet, ...]
    deadline: Fleet | None


def job_shape(job: Job) -> tuple[ModelShape, int]:
    """Shape and block size of a job's model, from its config alone.

    Raises:
        ConfigError: a model that the cost formulas do not cover.
    """
    config = load_model_config(job.checkpoint.path, needs_head=job.config.decode.mode == "consensus")
    dtype = job.config.model.dtype
    name = str(config.dtype).removeprefix("torch.") if dtype == "auto" else dtype
    shape = ModelShape.from_config(config, dtype_bytes=DTYPE_BYTES.get(name, 4))
    return shape, job.config.decode.block_size or config.block_size or 1


def open_job(section: JobSection) -> Job:
    """Check the generate config that a plan names, and plan its units; starts nothing."""
    return prepare(load_config(GenerateConfig, section.config, section.set))


def plan_capacity(
    section: JobSection, job: Job, hardware: Hardware, curves: Sequence[AcceptanceCurve], *, device_type: str
) -> Capacity:
    """Say what a job takes.

    Args:
        curves: acceptance by kind of text; empty: that of the earlier run.
    Raises:
        ConfigError: nothing says how drafts fare or how long completions are.
    """
    before = earlier_run(section.earlier_run) if section.earlier_run is not None else None
    shape, block_size = job_shape(job)
    prompts = sample_prompts(job, max_rows=section.sample_rows, max_shards=section.sample_shards)
    length, is_upper_bound = _completion_tokens(section, job, before)
    work = work_left(job, prompts, length)
    engine = job.config.decode
    size = _Size(block_size=block_size, device_type=device_type)
    time = work_time(hardware, shape, engine, work, _curves(curves, before, job), **size)
    fits = None
    if hardware.memory_bytes is not None:
        room = hardware.memory_bytes * section.memory_share
        fits = sequences_that_fit(shape, engine, memory_bytes=room, **size)
    return Capacity(
        job=job,
        prompts=prompts,
        work=work,
        is_upper_bound=is_upper_bound,
        shape=shape,
        T=token_budget(engine, **size),
        memory=actor_memory(shape, engine, **size),
        sequences_fit=fits,
        time=time,
        fleets=tuple(_fleet(section, job, time, gpus) for gpus in section.gpus),
        deadline=_deadline(section, job, time),
    )


def _curves(
    given: Sequence[AcceptanceCurve], before: EarlierRun | None, job: Job
) -> tuple[AcceptanceCurve, ...]:
    if given:
        return tuple(given)
    if before is not None and before.curve is not None:
        return (before.curve,)
    if job.config.decode.mode == "consensus":
        raise ConfigError("traffic is required where job.earlier_run is none, or a run without drafts")
    return (AcceptanceCurve(()),)


def _completion_tokens(section: JobSection, job: Job, before: EarlierRun | None) -> tuple[float, bool]:
    """Mean tokens of a completion, and whether that is only an upper bound."""
    if section.completion_tokens is not None:
        return section.completion_tokens, False
    if before is not None:
        return before.completion_tokens, False
    return float(job.config.sampling.max_new_tokens), True


def _fleet(section: JobSection, job: Job, time: WorkTime, gpus: int) -> Fleet:
    """Hours of a fleet: the work is shared, the start and an actor's last unit are not."""
    actors = math.floor(gpus / (job.config.run.gpus_per_actor or 1))
    if not actors:
        return Fleet(gpus, 0, math.inf, None)
    units = max(1, len(job.units))
    busy = min(actors, units, gpus)  # actors on one device share its time
    tail_s = time.total_s / units if busy > 1 else 0.0
    hours = (section.startup_s + time.total_s / busy + tail_s / 2) / SECONDS_PER_HOUR
    price = section.price_per_gpu_hour
    return Fleet(gpus, actors, hours, None if price is None else price * gpus * hours)


def _deadline(section: JobSection, job: Job, time: WorkTime) -> Fleet | None:
    """The smallest fleet that meets the deadline, found by doubling and halving."""
    if section.deadline_h is None:
        return None

    def meets(gpus: int) -> bool:
        assert section.deadline_h is not None
        return _fleet(section, job, time, gpus).hours <= section.deadline_h

    high, most = 1, max(1, len(job.units)) * max(1, math.ceil(job.config.run.gpus_per_actor or 1))
    while not meets(high):
        if high >= most:
            return None
        high = min(2 * high, most)
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if meets(middle) else (middle, high)
    return _fleet(section, job, time, high)
