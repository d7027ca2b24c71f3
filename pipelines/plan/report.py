"""What a plan shows in a terminal."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orthrus_core.evaluation.throughput import Throughput
from pipelines.plan.config import PlanConfig
from pipelines.plan.job import Measurement


def render_plan(config: PlanConfig, throughputs: Sequence[Throughput]) -> RenderableType:
    """One table of tokens/s per context."""
    traffic = ", ".join(config.traffic)
    parts: list[RenderableType] = [
        Text(
            f"{config.model} on {config.hardware}, text: {traffic}. Simulated, not measured: decoding only, "
        )
        + Text("prefill left out. Tokens/s of all sequences together.")
    ]
    for context in config.contexts:
        parts.append(_table(config, context, [t for t in throughputs if t.context == context]))
    if not all(t.fits for t in throughputs):
        parts.append(Text("-: weights and cache do not fit into the memory of the device."))
    return Group(*parts)


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
