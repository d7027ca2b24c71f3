"""Tables of figures in a terminal."""

from collections.abc import Mapping
from typing import Literal

from rich.markup import escape
from rich.table import Table


def new_table(title: str, *columns: str) -> Table:
    """An empty table; a name that begins with > is right-aligned."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1))
    for name in columns:
        justify: Literal["left", "right"] = "right" if name.startswith(">") else "left"
        table.add_column(escape(name.removeprefix(">")), justify=justify, no_wrap=True)
    return table


def show_spread(values: Mapping[str, float], digits: int) -> str:
    """Median, lowest and highest as text."""
    low, high = (f"{values[name]:.{digits}f}" for name in ("lowest", "highest"))
    return f"{values['median']:.{digits}f} ({low}-{high})"


def show_number(value: float | None, digits: int = 2) -> str:
    """A number as text, - for none."""
    return "-" if value is None else f"{value:.{digits}f}"
