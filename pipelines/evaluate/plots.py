"""The plots of an evaluation's page."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipelines.generate.report.plots import BLUE, GREY, INK, ORANGE, label, svg, write_above

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Report = Mapping[str, Any]

LINE_INCHES = 0.28  # height of a bar with its name
MOST_LINES = 8
COLOURS = (BLUE, ORANGE, GREY, INK)


def exactness_plot(report: Report) -> str:
    """Share of identical rows with its confidence, consensus in blue, others beside themselves in orange."""
    lines = [
        (f"consensus = AR, {_named(text)}, batch {text['batch']}", text["exactness"], BLUE)
        for text in report["texts"]
    ]
    lines += [
        (f"{one['system']}, {_named(one)}, batch {one['batches'][1]} = {one['batches'][0]}", one, ORANGE)
        for one in report["itself"]
    ]

    def draw(axes: "Axes") -> None:
        places = range(len(lines))
        values = [100 * found["share"]["value"] for _, found, _ in lines]
        low = [
            value - 100 * found["share"]["low"] for value, (_, found, _) in zip(values, lines, strict=True)
        ]
        high = [
            100 * found["share"]["high"] - value for value, (_, found, _) in zip(values, lines, strict=True)
        ]
        axes.barh(places, values, color=[colour for *_, colour in lines], height=0.65)
        axes.errorbar(values, places, xerr=[low, high], fmt="none", ecolor=INK, elinewidth=1, capsize=2)
        axes.set_yticks(list(places), [name for name, *_ in lines], fontsize=7)
        axes.invert_yaxis()
        axes.yaxis.grid(False)
        axes.xaxis.grid(True, color=GREY, alpha=0.3, linewidth=0.7)
        axes.set_xlim(0, 100)
        axes.set_xlabel("rows with the same tokens (%), 95 % confidence", color=INK)

    return svg("exactness", draw, height=0.8 + LINE_INCHES * len(lines)) if lines else ""


def acceptance_plot(report: Report) -> str:
    """Accepted drafts by position; of each prompt set and temperature the first run."""
    curves: dict[str, list[float]] = {}
    for text in report["texts"]:
        shares = text["acceptance"]["accepted_by_position"]
        if any(shares):
            curves.setdefault(f"{text['prompt_set']}, temperature {text['temperature']:g}", shares)

    def draw(axes: "Axes") -> None:
        for place, (name, shares) in enumerate(list(curves.items())[:MOST_LINES]):
            colour, line = COLOURS[place % len(COLOURS)], "-" if place < len(COLOURS) else "--"
            percent = [100 * share for share in shares]
            axes.plot(range(1, len(shares) + 1), percent, line, color=colour, marker="o", ms=3, label=name)
        label(axes, "draft's position after the anchor", "drafts accepted (%)")
        axes.legend(frameon=False, fontsize=7, labelcolor=INK)

    return svg("acceptance", draw) if curves else ""


def speed_plot(report: Report) -> str:
    """Consensus against AR under each load, the whole range of the rounds as a line."""
    loads = report["speed"]

    def draw(axes: "Axes") -> None:
        ratios = [load["systems"][1]["consensus_ratio"] for load in loads]
        places = range(len(loads))
        medians = [one["median"] for one in ratios]
        axes.bar(places, medians, color=BLUE, width=0.6)
        for place, one in zip(places, ratios, strict=True):
            axes.plot([place, place], [one["lowest"], one["highest"]], color=INK, linewidth=1)
            write_above(axes, place, one["highest"], f"{one['median']:.2f}")
        axes.axhline(1, color=ORANGE, linestyle="--", linewidth=1.2)
        axes.set_xticks(list(places), [_load_name(load) for load in loads], fontsize=7)
        label(axes, "", "tokens/s, consensus / AR")

    return svg("speed", draw) if loads else ""


def _named(run: Report) -> str:
    return f"{run['prompt_set']}, {run['dtype']}, temperature {run['temperature']:g}"


def _load_name(load: Report) -> str:
    context = f"\n{load['context']} tokens" if load["context"] else ""
    return f"{load['prompt_set']}\nbatch {load['batch']}{context}"
