"""What a run says at its end: figures (report.json), a page (report.html), a data card, the terminal."""

from pipelines.generate.report.card import data_card
from pipelines.generate.report.figures import RunTimes, run_report
from pipelines.generate.report.store import (
    finish_run,
    partial_report,
    store_failure,
    store_report,
)
from pipelines.generate.report.terminal import figures_table, render_plan, render_report
from pipelines.generate.write.sums import RunSums

__all__ = [
    "RunSums",
    "RunTimes",
    "data_card",
    "figures_table",
    "finish_run",
    "partial_report",
    "render_plan",
    "render_report",
    "run_report",
    "store_failure",
    "store_report",
]
