"""A run's state on a terminal."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipelines.command.wording import count_of, show_duration
from pipelines.generate.watch.inspect import RunState

STYLES = {"done": "green", "running": "cyan", "interrupted": "yellow"}


def render_state(state: RunState, errors: Sequence[dict[str, str]]) -> RenderableType:
    """Figures of a run, and its first error rows where they were asked for."""
    table = Table(show_header=False, box=None)
    for name, value in _lines(state):
        table.add_row(name, value)
    parts: list[RenderableType] = [table]
    if errors:
        parts.append(_error_table(errors, state.errors))
    if state.status == "damaged":
        parts.append(Text("Move away what is damaged; the command that began this run makes it again."))
    if state.status in ("interrupted", "failed", "stopped"):
        parts.append(Text("The command that began this run goes on with it; what is committed is kept."))
    return Group(*parts)


def _lines(state: RunState) -> Iterator[tuple[str, RenderableType]]:
    reason = (state.report or {}).get("reason") if state.status in ("interrupted", "failed") else None
    status = Text(state.status, style=STYLES.get(state.status, "red"))
    yield "status", status + Text(f": {reason}", style="default") if reason else status
    yield "driver", Text(state.driver)
    yield "output", Text(f"{state.url} (fingerprint {state.fingerprint})")
    if state.faults:
        more = f" and {len(state.faults) - 5} more" if len(state.faults) > 5 else ""
        yield "damaged files", Text("; ".join(state.faults[:5]) + more, style="red")
    yield "units", Text(_of(state.units_done, state.units))
    yield "rows", Text(_of(state.rows_done, state.rows))
    again = "; --only-failed runs these again" if state.errors else ""
    yield "error rows", Text(f"{state.errors:,} in {count_of(len(state.failed_units), 'unit')}{again}")
    counts = state.counts
    yield "completion tokens", Text(f"{counts.get('completion_tokens', 0):,}")
    yield "acceptance length", Text(_ratio(counts, "step_tokens", "steps"))
    yield "tokens per forward", Text(_ratio(counts, "step_tokens", "forwards"))
    reasons = ", ".join(f"{k[7:]} {v:,}" for k, v in sorted(counts.items()) if k.startswith("finish_"))
    yield "finish reasons", Text(reasons or "-")
    if state.rows_per_s is not None and state.tokens_per_s is not None:
        yield "speed lately", Text(f"{state.rows_per_s:.2f} rows/s, {state.tokens_per_s:.1f} tokens/s")
    if state.seconds_left is not None:
        yield "time left", Text(show_duration(state.seconds_left))
    run: dict[str, Any] = (state.report or {}).get("this_run") or {}
    if state.status != "running" and run.get("wall_s"):
        yield "wall time of the last run", Text(show_duration(run["wall_s"]))


def _error_table(errors: Sequence[dict[str, str]], total: int) -> Table:
    table = Table(title=f"{len(errors)} of {total} error rows", title_justify="left", box=None)
    table.add_column("id", no_wrap=True)
    table.add_column("error")
    for row in errors:
        table.add_row(Text(row["id"]), Text(row["error"]))
    return table


def _of(done: int, total: int) -> str:
    return f"{done:,} of {total:,} ({100 * done / total:.1f} %)" if total else "0"


def _ratio(counts: dict[str, int], name: str, by: str) -> str:
    return f"{counts[name] / counts[by]:.2f}" if counts.get(by) and name in counts else "-"
