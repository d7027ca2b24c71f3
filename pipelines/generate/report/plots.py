"""The plots of the page as inline SVG: text as outlines, colours as CSS variables of the page."""

import io
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colours that mark what the page colours itself, for light and dark. Okabe and Ito's, told apart by anybody.
INK, BLUE, ORANGE, GREY = "#010203", "#0072b2", "#e69f00", "#999998"
VARIABLES = {INK: "var(--ink)", BLUE: "var(--blue)", ORANGE: "var(--orange)", GREY: "var(--grey)"}
WIDTH, HEIGHT = 7.2, 2.7  # inches
MOST_TICKS = 16
FEW = 6  # buckets that have room for long names
MINUTE_S, HOUR_S = 60.0, 3600.0
SECONDS_UP_TO, MINUTES_UP_TO = 180.0, 10800.0


def speed_plot(speed: Mapping[str, Any]) -> str:
    """Tokens per second over the run's working time, sessions parted by dotted lines."""
    values, bin_s = speed["tokens_per_s"], speed["bin_s"]
    total_s = bin_s * len(values)
    unit, unit_s = _time_unit(total_s)

    def draw(axes: "Axes") -> None:
        edges = [i * bin_s / unit_s for i in range(len(values) + 1)]
        axes.stairs(values, edges, fill=True, color=BLUE, alpha=0.25)
        axes.stairs(values, edges, color=BLUE, linewidth=1.5)
        for start in speed["sessions"][1:]:
            axes.axvline(start / unit_s, color=ORANGE, linestyle=":", linewidth=1.5)
        axes.set_xlim(0, total_s / unit_s)
        label(axes, f"working time of the run ({unit})", "completion tokens / s")
        _thousands(axes)

    return svg("speed", draw)


def position_plot(drafted: Sequence[int], accepted: Sequence[int]) -> str:
    """Share of drafts that stood, by their distance from the anchor."""
    shares = [100 * a / d if d else 0.0 for a, d in zip(accepted, drafted, strict=True)]

    def draw(axes: "Axes") -> None:
        places = range(1, len(shares) + 1)
        axes.bar(places, shares, color=BLUE, width=0.7)
        axes.set_ylim(0, 100)
        axes.set_xlim(0.4, len(shares) + 0.6)
        axes.set_xticks(places[:: -(-len(shares) // MOST_TICKS)])
        if len(shares) <= MOST_TICKS:
            for place, share in zip(places, shares, strict=True):
                write_above(axes, place, share, f"{share:.0f}")
        label(axes, "draft's position after the anchor", "drafts accepted (%)")

    return svg("position", draw)


def length_plot(buckets: Sequence[Mapping[str, Any]]) -> str:
    """Acceptance length by completion length; under each bucket its number of rows."""
    shown = [bucket for bucket in buckets if bucket["acceptance_length"] is not None]

    def draw(axes: "Axes") -> None:
        places = range(len(shown))
        lengths = [bucket["acceptance_length"] for bucket in shown]
        axes.bar(places, lengths, color=BLUE, width=0.6)
        axes.axhline(1, color=ORANGE, linestyle="--", linewidth=1.2)
        axes.set_ylim(0, max(lengths) * 1.15)
        axes.set_xlim(-0.6, len(shown) - 0.4)
        axes.set_xticks(list(places), _bucket_names(shown), fontsize=8 if len(shown) <= FEW else 7)
        for place, length in zip(places, lengths, strict=True):
            write_above(axes, place, length, f"{length:.2f}")
        label(axes, "completion tokens" + ("" if len(shown) <= FEW else " (rows)"), "tokens per step")

    return svg("length", draw) if shown else ""


def short(number: float) -> str:
    """A count that fits beside others: 1,234,567, then 12.3 million, 4.56 billion."""
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if number >= max(size, 1e7):
            return f"{number / size:.4g} {word}"
    return f"{number:,}"


def _bucket_names(buckets: Sequence[Mapping[str, Any]]) -> list[str]:
    """Tokens and rows of each bucket; where there are many, only its end and a rounded number."""
    if len(buckets) <= FEW:
        return [f"{b['from']}-{b['to']}\n{b['rows']:,} rows" for b in buckets]
    return [f"≤ {b['to']:,}\n({_rounded(b['rows'])})" for b in buckets]


def _rounded(number: int) -> str:
    for size, letter in ((10**9, "G"), (10**6, "M"), (1000, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return str(number)


def svg(name: str, draw: "Callable[[Axes], None]", *, height: float = HEIGHT) -> str:
    """Draw into a figure of its own and return an `<svg>` element that the page can hold beside others.

    Args:
        name: for the ids in it; no other plot of the page has it.
        height: inches.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it tells of the fonts it found
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": name, "font.size": 9}):
        figure: Figure = Figure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots()
        _style(axes)
        draw(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _inline(buffer.getvalue(), name)


def _inline(document: str, name: str) -> str:
    """The svg element of a document, ids its own, colours those of the page."""
    text = document[document.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, variable)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1, flags=re.S)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1, flags=re.S)
    return text.replace("<svg", '<svg class="plot" aria-hidden="true"', 1)


def _style(axes: "Axes") -> None:
    axes.set_facecolor("none")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GREY)
    axes.tick_params(colors=INK, which="both", length=3)
    axes.yaxis.grid(True, color=GREY, alpha=0.3, linewidth=0.7)
    axes.set_axisbelow(True)


def label(axes: "Axes", x: str, y: str) -> None:
    """Name the axes; y begins at 0."""
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.set_ylim(bottom=0)


def _thousands(axes: "Axes") -> None:
    from matplotlib.ticker import FuncFormatter

    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def _time_unit(total_s: float) -> tuple[str, float]:
    if total_s <= SECONDS_UP_TO:
        return "s", 1.0
    return ("min", MINUTE_S) if total_s <= MINUTES_UP_TO else ("h", HOUR_S)


def write_above(axes: "Axes", place: float, height: float, text: str) -> None:
    """Write a bar's value on top of it."""
    axes.annotate(
        text,
        (place, height),
        xytext=(0, 2),
        textcoords="offset points",
        ha="center",
        va="bottom",
        color=INK,
        fontsize=8,
        annotation_clip=False,
    )
