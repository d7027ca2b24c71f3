"""What a plan shows in a terminal."""

import math
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from orthrus_core.evaluation.throughput import Throughput
from pipelines.plan.capacity import Capacity, Fleet
from pipelines.plan.config import PlanConfig
from pipelines.plan.job import Measurement


def render_plan(config: PlanConfig, throughputs: Sequence[Throughput]) -> RenderableType:
    """One table of tokens/s per context."""
    traffic = ", ".join(config.traffic)
    parts: list[RenderableType] = [
        Text(
            f"{config.model} on {config.hardware}, text: {traffic}. Simulated, not measured: decoding only, "
            "prefill left out. Tokens/s of all sequences together."
        )
    ]
    for context in config.contexts:
        parts.append(_table(config, context, [t for t in throughputs if t.context == context]))
    if not all(t.fits for t in throughputs):
        parts.append(Text("-: weights and cache do not fit into the memory of the device."))
    return Group(*parts)


def render_capacity(config: PlanConfig, capacity: Capacity) -> RenderableType:
    """What a generate job takes: its work, an actor's memory and speed, hours and price by number of GPUs."""
    assert config.job is not None
    facts = Table(show_header=False, box=None, padding=(0, 1))
    for name, value in (*_work_facts(capacity), *_actor_facts(config, capacity)):
        facts.add_row(name, escape(value))
    parts: list[RenderableType] = [
        Text(f"{config.job.config} on {config.hardware}. By formula, not measured (docs/planning.md)."),
        facts,
        _fleet_table(capacity),
    ]
    if config.job.deadline_h is not None:
        parts.append(Text(_deadline_line(config.job.deadline_h, capacity)))
    return Group(*parts)


def _work_facts(capacity: Capacity) -> list[tuple[str, str]]:
    job, prompts, work = capacity.job, capacity.prompts, capacity.work
    files = sum(shard.skipped is None for shard in job.plan.shards)
    bound = ", the most that sampling.max_new_tokens allows" if capacity.is_upper_bound else ""
    errors = f", {prompts.errors} of them error rows" if prompts.errors else ""
    return [
        (
            "rows",
            f"{job.plan.num_rows:,} in {files:,} files, {work.rows:,} in {len(job.units):,} units to do",
        ),
        (
            "prompt tokens",
            f"{prompts.mean:.0f} a row, 95 % within {prompts.p95:,}, longest {prompts.longest:,} "
            f"(of {prompts.rows} rows rendered{errors})",
        ),
        ("completion tokens", f"{work.completion_tokens:,.0f} each{bound}; {work.tokens:,.0f} in all"),
    ]


def _actor_facts(config: PlanConfig, capacity: Capacity) -> list[tuple[str, str]]:
    memory, engine, time = capacity.memory, capacity.job.config.decode, capacity.time
    fit = "" if capacity.sequences_fit is None else f", {capacity.sequences_fit:,} would fit"
    speed = f"{time.tokens_per_s:,.0f} tokens/s"
    if engine.mode == "consensus":
        speed += f", {time.tokens_per_s / time.ar_tokens_per_s:.2f} times AR decoding"
    return [
        (
            "memory of an actor",
            f"{_size(memory.total)}: weights {_size(memory.weights)}, cache {_size(memory.cache)}, "
            f"forwards about {_size(memory.working)}",
        ),
        ("sequences at once", f"{engine.max_sequences} of {engine.max_context:,} tokens{fit}"),
        ("decoding of an actor", speed),
        (
            "time of one actor",
            f"{_hours(time.total_s / 3600)}, prompts {time.prefill_s / time.total_s:.0%} of it",
        ),
    ]


def _fleet_table(capacity: Capacity) -> Table:
    table = _empty_table(f"Hours, {capacity.job.config.run.gpus_per_actor or 1:g} GPU per actor")
    for name in ("GPUs", "actors", "time", "price"):
        table.add_column(name, justify="right")
    for fleet in capacity.fleets:
        table.add_row(str(fleet.gpus), str(fleet.actors), _hours(fleet.hours), _price(fleet))
    return table


def _deadline_line(deadline_h: float, capacity: Capacity) -> str:
    fleet, asked = capacity.deadline, f"GPUs to end within {_hours(deadline_h)}"
    if fleet is None:
        return f"{asked}: no number is enough for start-up and the longest unit; set run.unit_rows lower"
    price = "" if fleet.price is None else f", price {_price(fleet)}"
    return f"{asked}: {fleet.gpus} ({_hours(fleet.hours)}{price})"


def _price(fleet: Fleet) -> str:
    return "-" if fleet.price is None else f"{fleet.price:,.2f}"


def _hours(hours: float) -> str:
    """0.004 -> 14 s, 0.5 -> 30 min, 12 -> 12.0 h, 60 -> 2.5 days, infinity -> -."""
    if math.isinf(hours):
        return "-"
    if hours < 1 / 30:
        return f"{3600 * hours:.0f} s"
    if hours < 2:
        return f"{60 * hours:.0f} min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 2**29 else f"{num_bytes / 2**20:.1f} MiB"


def render_measurement(measurement: Measurement) -> RenderableType:
    """This machine's figures, and predicted against measured forwards."""
    hardware, rates = measurement.calibration.hardware, measurement.calibration.flops_per_s
    figures = ", ".join(f"{rate / 1e9:.0f} GFLOP/s at {rows} rows" for rows, rate in rates.items())
    table = _empty_table("Forwards of the engine's runner: the formula against this machine")
    for name in ("token rows", "sequences", "context", "predicted ms", "measured ms", "predicted/measured"):
        table.add_column(name, justify="right")
    for one in measurement.comparisons:
        table.add_row(
            *(str(count) for count in (one.rows, one.sequences, one.context)),
            f"{1e3 * one.predicted_s:.2f}",
            f"{1e3 * one.measured_s:.2f}",
            f"{one.ratio:.2f}",
        )
    return Group(
        Text(
            f"This machine: {hardware.bytes_per_s / 1e9:.1f} GB/s copied, {figures}, "
            f"{1e3 * hardware.overhead_s:.2f} ms overhead per forward"
        ),
        table,
    )


def _table(config: PlanConfig, context: int, throughputs: Sequence[Throughput]) -> Table:
    table = _empty_table(f"context {context:,}")
    fixed = [f"K={K}" for K in config.block_sizes]
    for name in ("sequences", "AR", *fixed, "adaptive", "best K", "adaptive/AR"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in throughputs:
        table.add_row(str(one.sequences), *(_cells(one) if one.fits else ["-"] * (len(fixed) + 4)))
    return table


def _cells(one: Throughput) -> list[str]:
    """The columns after the first; best K is the mean over sequences, AR where nobody drafts."""
    rates = [one.ar, *one.fixed.values(), one.adaptive]
    best = f"{one.drafts:.1f}".removesuffix(".0") if one.drafts else "AR"
    return [*(f"{rate:,.0f}" for rate in rates), best, f"{one.speedup:.2f}"]


def _empty_table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1))
