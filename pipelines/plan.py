"""What a generate job takes, before it runs: memory, hours, price, and how many actors meet a deadline.

Rows come from the files' metadata, tokens from a sample of rows, memory from the model's config. The speed of
an actor comes from the report of an earlier run, from a trial of the engine on this machine, or by formula
from three numbers of a card:

    forward_s = max(bytes / bandwidth, FLOPs / peak) / EFFICIENCY + OVERHEAD_S
"""

import itertools
import json
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Self

from pydantic import Field, field_validator, model_validator
from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from orthrus_core.errors import ConfigError
from orthrus_core.evaluation.curve import AcceptanceCurve
from orthrus_core.models.cost import ModelShape, forward_bytes, forward_flops
from orthrus_core.models.loading import load_config
from orthrus_core.readiness.device_memory import DeviceMemory
from orthrus_core.request import Request
from pipelines.cluster.resources import gpus_per_actor
from pipelines.config.section import Section
from pipelines.config.urls import Url
from pipelines.generate.config.job import GenerateConfig
from pipelines.generate.decode.actor import load_engine
from pipelines.generate.decode.requests import RequestBuilder
from pipelines.generate.decode.spec import actor_spec, decode_options, sized_options
from pipelines.generate.job.job import Job, prepare
from pipelines.generate.job.preview import first_rows
from pipelines.generate.job.sizes import choose_sizes, device_here, memory_here
from pipelines.generate.prompt.unit import render_unit
from pipelines.generate.report.terminal import memory_line, memory_title
from pipelines.storage.files import join, read_bytes

SAMPLE_ROWS, SAMPLE_FILES = 256, 8
EFFICIENCY, OVERHEAD_S = 0.7, 0.0003  # assumed: share of both numbers reached; host seconds of a forward
AT_MOST = "sampling.max_new_tokens: the most there can be"
ACTORS = (1, 2, 4, 8, 16, 32, 64)


class Card(Section):
    """The three numbers of a card."""

    bytes_per_s: float = Field(gt=0, description="Memory bandwidth, as on the data sheet.")
    flops_per_s: float = Field(gt=0, description="Peak rate of dense products in the model's dtype.")
    memory_bytes: float = Field(gt=0, description="Size of the memory.")


# Of NVIDIA's data sheets: dense BF16, which is half of the figure "with sparsity".
CARDS = {
    "h100": Card(bytes_per_s=3.35e12, flops_per_s=989e12, memory_bytes=80e9),  # SXM5
    "h200": Card(bytes_per_s=4.8e12, flops_per_s=989e12, memory_bytes=141e9),  # SXM5
    "a100": Card(bytes_per_s=2.039e12, flops_per_s=312e12, memory_bytes=80e9),  # SXM4, 80 GB
    "l4": Card(bytes_per_s=300e9, flops_per_s=121e12, memory_bytes=24e9),
}


class PlanSection(Section):
    """Where the speed of an actor comes from, and what is asked."""

    earlier_run: Url | None = Field(None, description="Output path of a run whose speed and lengths count.")
    card: Card | None = Field(None, description=f"Speed by formula: {', '.join(CARDS)}, or three numbers.")
    trial_s: float = Field(60.0, gt=0, description="Without earlier_run and card: seconds of a trial here.")
    acceptance_length: float = Field(1.0, ge=1, description="Tokens per step, for the formula; 1: plain AR.")
    completion_tokens: float | None = Field(
        None, gt=0, description="Mean tokens of a completion; none: measured, else max_new_tokens."
    )
    deadline_h: float | None = Field(None, gt=0, description="Hours in which the job is to end.")
    startup_s: float = Field(120.0, ge=0, description="Seconds from the job's start to the first token.")

    @field_validator("card", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if isinstance(value, str) and value not in CARDS:
            raise ValueError(f"must be {', '.join(CARDS)} or three numbers, got {value}")
        return CARDS.get(value, value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.earlier_run is not None and self.card is not None:
            raise ValueError("must have at most one of earlier_run and card")
        return self


class PlanOptions(Section):
    """Options of `jobs/plan.py` beside those of the generate job, whose config it takes."""

    plan: PlanSection = Field(default_factory=PlanSection, description="Plan.")


class PlanConfig(GenerateConfig, PlanOptions):
    """A generate config and a plan."""


@dataclass(frozen=True)
class Sample:
    """Rows of a job: their number, prompt lengths in ascending order, a request for each completion."""

    rows: int
    prompt_lens: Sequence[int]
    requests: Sequence[Request]

    @property
    def longest_completion(self) -> float:
        """Mean of max_new_tokens."""
        return statistics.fmean(request.params.max_new_tokens for request in self.requests)


@dataclass(frozen=True)
class Speed:
    """What one actor does: tokens of completions, the time for their prompts included.

    `completion_tokens` is a measured mean, `rests_on` says where it all comes from.
    """

    tokens_per_s: float
    completion_tokens: float | None
    rests_on: str
    device: str = "cuda"
    memory: DeviceMemory | None = None


@dataclass(frozen=True)
class Schedule:
    """Work of one actor shared by many, a unit at a time; no more of them work than there are units."""

    work_s: float
    units: int
    startup_s: float

    @property
    def tail_s(self) -> float:
        """Half a unit, in which actors wait for the last one."""
        return self.work_s / self.units / 2

    def seconds(self, actors: int) -> float:
        """From the start to the end."""
        busy = min(actors, self.units)
        return self.startup_s + self.work_s / busy + (self.tail_s if busy > 1 else 0.0)

    def actors_within(self, deadline_s: float) -> int | None:
        """The fewest actors that end in time; None: no number does."""
        if self.seconds(1) <= deadline_s:
            return 1
        left_s = deadline_s - self.startup_s - self.tail_s
        actors = max(2, math.ceil(self.work_s / left_s)) if left_s > 0 else math.inf
        return int(actors) if actors <= self.units else None


def plan_job(config: PlanConfig) -> RenderableType:
    """Plan what is left of a job; nothing is written."""
    job = prepare(config)
    if not job.units:
        done = f"all {job.plan.num_rows:,} rows are finished in {job.ledger.url}"
        return Text(f"Nothing is left to do: {done}. Another output.path plans them anew.")
    sample, section = sample_rows(job), config.plan
    if section.earlier_run is not None:
        speed = speed_of_run(section.earlier_run)
    elif section.card is not None:
        speed = card_speed(section.card, job, sample, section)
    else:
        speed = trial_speed(job, sample, section.trial_s)
    return render(job, config, sample, speed)


def sample_rows(job: Job) -> Sample:
    """Tokenize rows from files that lie evenly in the listing; ConfigError where none makes a prompt."""
    units = [unit for unit in job.plan.units if unit.index == 0]
    chosen = units[:: max(1, len(units) // SAMPLE_FILES)][:SAMPLE_FILES]
    tables = [first_rows(job, unit, SAMPLE_ROWS // len(chosen)) for unit in chosen]
    rows = sum(table.num_rows for table in tables)
    build = RequestBuilder(job.config.sampling).sample_rows
    rendered = [
        render_unit(table, job.config, job.checkpoint.source, job.layout, hook=job.hooks.input)
        for table in tables
    ]
    samples = list(itertools.chain.from_iterable(map(build, rendered)))
    requests = [one.request for one in samples if one.request is not None]
    if not requests:
        raise ConfigError(f"input: none of {rows} sampled rows makes a prompt: {samples[0].error}")
    return Sample(rows, sorted(len(one.prompt_ids) for one in requests if one.sample == 0), requests)


def speed_of_run(url: str) -> Speed:
    """What the engines of a run did in its last session; ConfigError where its report does not tell."""
    name = join(url, "_run", "report.json")
    where, text = f"plan.earlier_run: {name}", read_bytes(name)
    if text is None:
        raise ConfigError(f"{where} does not exist: give the output path of a run that has ended")
    try:
        report: dict[str, Any] = json.loads(text)
        rows, errors, last = report["rows"], report["errors"], report["this_run"]
        tokens, seconds = last["completion_tokens"], last["engine_s"] + last["audit_s"]
        device = (report["engine"] or {}).get("device", "")
        mean = report["completion_tokens"] / max(1, rows - errors)
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{where} is no report of a generate run ({error!r})") from None
    if rows <= errors:
        raise ConfigError(f"{where} has no completions: {errors:,} of {rows:,} rows are errors")
    if not tokens or not seconds:
        raise ConfigError(f"{where}: the run's last session made no tokens; give another run")
    rests_on = f"{name}: {tokens:,} tokens in {seconds:,.0f} s of engines on {device}, audit included"
    return Speed(tokens / seconds, mean, rests_on, device.split(":")[0])


def trial_speed(job: Job, sample: Sample, seconds: float) -> Speed:
    """Load the job's engine here and run sampled rows."""
    config, device = job.config, device_here(job.config.model.device)
    decode = decode_options(config, {}, num_rows=sum(unit.num_rows for unit in job.units))
    decode = sized_options(job, decode, device, memory_here(device))
    spec = actor_spec(job, device, decode)
    memory = memory_here(device)
    speed = run_trial(load_engine(spec), sample, seconds, in_flight=2 * decode.max_sequences)
    return replace(speed, device=device, memory=memory)


def run_trial(engine: Any, sample: Sample, seconds: float, *, in_flight: int) -> Speed:
    """Keep an engine full for some time, with the same requests over and over.

    The mean length is all tokens by completions that ended: longer ones are not left out for not ending.
    """
    endless, missing, ended, error = itertools.cycle(enumerate(sample.requests)), in_flight, 0, None
    started_at = time.perf_counter()
    while (taken_s := time.perf_counter() - started_at) < seconds:
        for index, request in itertools.islice(endless, missing):
            if index == 0:
                engine.forget_prompts()  # a prompt that comes again costs the same again
            engine.submit(request)
        completions = engine.step()
        missing = len(completions)
        ended += sum(completion.error is None for completion in completions)
        error = next((completion.error for completion in completions if completion.error), error)
    tokens = engine.report()["emitted_tokens"]
    if not tokens:
        raise ConfigError(f"plan.trial_s: no token in {taken_s:.0f} s: {error or 'set it higher'}")
    mean = min(tokens / ended, sample.longest_completion) if ended else None
    rests_on = f"trial on this machine: {tokens:,} tokens in {taken_s:.0f} s, {ended:,} completions ended"
    return Speed(tokens / taken_s, mean, rests_on)


def card_speed(card: Card, job: Job, sample: Sample, section: PlanSection) -> Speed:
    """The speed by formula: full batches with the best number of drafts, prompts in the largest forwards."""
    if job.config.model.tensor_parallel > 1:
        raise ConfigError(
            "plan.card knows nothing of GPUs that wait for each other (model.tensor_parallel): give "
            "plan.earlier_run, or no card for a trial"
        )
    memory = DeviceMemory(int(card.memory_bytes), int(card.memory_bytes))
    prompt, length = _mean_lengths(sample, section)
    sizes = choose_sizes(job.config, job.checkpoint, "cuda", memory, prompt_tokens=prompt)
    engine, T = sizes.decode, sizes.rows
    try:
        config = load_config(job.checkpoint.path, needs_head=engine.needs_head)
        shape = ModelShape.from_config(
            config,
            dtype_bytes=sizes.dtype.itemsize,
            layer_weight_bytes=None if job.config.model.weights == "auto" else 1,
            output_weight_bytes=1 if job.config.model.quantise_output_head else None,
        )
        most = (engine.block_size or config.block_size) if engine.uses_head(config) else 0
        length_of_step = section.acceptance_length if most else 1.0
        curve = AcceptanceCurve.from_tokens_per_step(length_of_step, most)
    except ConfigError as error:
        raise ConfigError(f"plan.card: {error}; give plan.earlier_run, or no card for a trial") from None
    except ValueError as error:
        raise ConfigError(f"plan.acceptance_length: {error}") from None
    S = engine.max_sequences

    def token_s(drafts: int) -> float:
        sizes = {"sequences": S, "context": round(prompt + length / 2)}
        step_s = forward_s(card, shape, rows=S * (drafts + 1), **sizes)
        step_s += forward_s(card, shape, rows=S * drafts, **sizes) if drafts else 0.0
        return step_s / S / curve.tokens_per_step(drafts)

    best = min(range(most + 1), key=token_s)
    prefill_s = prompt / T * forward_s(card, shape, rows=T, sequences=1, context=round(prompt / 2))
    how = f"{curve.tokens_per_step(best):.1f} tokens per step by {best} drafts" if best else "plain AR"
    numbers = f"{card.bytes_per_s / 1e12:g} TB/s and {card.flops_per_s / 1e12:g} TFLOP/s"
    rests_on = f"formula, not measured: {EFFICIENCY:.0%} of {numbers}, {how}"
    return Speed(length / (length * token_s(best) + prefill_s), None, rests_on, "cuda", memory)


def _mean_lengths(sample: Sample, section: PlanSection) -> tuple[float, float]:
    """Mean tokens of a prompt, and of a completion."""
    prompt = sum(sample.prompt_lens) / len(sample.requests)
    return prompt, section.completion_tokens or sample.longest_completion


def forward_s(card: Card, shape: ModelShape, *, rows: int, sequences: int, context: int) -> float:
    """Seconds of a forward of either view."""
    moved_s = forward_bytes(shape, rows=rows, sequences=sequences, context=context) / card.bytes_per_s
    computed_s = forward_flops(shape, rows=rows, context=context) / card.flops_per_s
    return max(moved_s, computed_s) / EFFICIENCY + OVERHEAD_S


def render(job: Job, config: PlanConfig, sample: Sample, speed: Speed) -> RenderableType:
    """Every figure and what it rests on, time and price by actors, and the deadline."""
    section, lens, length = config.plan, sample.prompt_lens, speed.completion_tokens
    length, said = (length, "measured with the speed") if length else (sample.longest_completion, AT_MOST)
    if section.completion_tokens is not None:
        length, said = section.completion_tokens, "plan.completion_tokens"
    rows, mean = sum(unit.num_rows for unit in job.units), statistics.fmean(lens)
    completions = rows * len(sample.requests) / sample.rows
    schedule = Schedule(completions * length / speed.tokens_per_s, len(job.units), section.startup_s)
    p95, errors = lens[int(0.95 * (len(lens) - 1))], sample.rows - len(lens)
    tokenized = f"{sample.rows:,} rows tokenized, {errors:,} of them error rows"
    ends = f"plan.startup_s; half of one of {schedule.units:,} units, where actors wait for the last"
    table = _table("", "figure", "rests on")
    for facts in (
        ("rows", f"{rows:,} of {job.plan.num_rows:,}", "the files' metadata, less what output.path has"),
        ("prompts", f"{mean:,.0f} tokens, 95 % within {p95:,}", tokenized),
        ("completions", f"{length:,.0f} tokens x {completions:,.0f} = {completions * length:,.0f}", said),
        (memory_title(config), *_memory_facts(job, speed, sample, length=mean + length)),
        ("speed of an actor", f"{speed.tokens_per_s:,.0f} tokens/s", speed.rests_on),
        ("work", f"{_time(schedule.work_s)} of one actor", "tokens by speed"),
        ("start and end", f"{_time(schedule.startup_s)}, {_time(schedule.tail_s)}", ends),
    ):
        table.add_row(*map(Text, facts))
    return Group(table, *_fleets(config, schedule, speed.device))


def _memory_facts(job: Job, speed: Speed, sample: Sample, *, length: float) -> tuple[str, str]:
    """What an actor allocates, and how that compares with what sequences need and the device has."""
    prompt = statistics.fmean(sample.prompt_lens)
    sizes = choose_sizes(job.config, job.checkpoint, speed.device, speed.memory, prompt_tokens=prompt)
    engine, plan = sizes.decode, sizes.plan
    each = math.ceil(min(length, engine.max_context) / engine.page_size) * sizes.page_bytes
    said = (
        f"the model's config; at most {engine.max_context:,} tokens a sequence; {engine.max_sequences} such "
        f"sequences fill {decimal(engine.max_sequences * each)} of the cache"
    )
    if sizes.left is not None:
        most = max(0, sizes.left - plan.total + plan.cache) // each
        fits = "fits in" if plan.total <= sizes.left else "DOES NOT FIT in"
        share = f"{engine.memory:.0%} of the device, {decimal(sizes.left)}"
        said += f"; {fits} {share}, with room for {most:,} such"
    return memory_line(plan), said


def _fleets(config: PlanConfig, schedule: Schedule, device: str) -> Iterator[RenderableType]:
    """Time and price by number of actors, each alone on its device, and the number for the deadline."""
    gpus = gpus_per_actor(config.run, device, config.model.tensor_parallel)
    price = config.report.gpu_hour_price

    def cells(actors: int) -> tuple[str, ...]:
        seconds = schedule.seconds(actors)
        cost = "-" if price is None else f"{price * actors * seconds / 3600:,.2f} {config.report.currency}"
        return f"{actors}", f"{math.ceil(actors * gpus)}", _time(seconds), cost

    table = _table("actors", "GPUs", "time", "price")
    for actors in (count for count in ACTORS if count <= schedule.units):
        table.add_row(*cells(actors))
    yield table
    if config.plan.deadline_h is not None:
        deadline_s = config.plan.deadline_h * 3600
        found = schedule.actors_within(deadline_s)
        answer = "no number is enough for the start and the longest unit: set run.unit_rows lower"
        if found is not None:
            answer = "actors {}, GPUs {}, time {}, price {}".format(*cells(found))
        yield Text(f"To end within {_time(deadline_s)}: {answer}")


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
