"""What a comparison with other engines shows in a terminal."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from pipelines.evaluate.tables import new_table, show_spread


def render_peers(report: Mapping[str, Any]) -> Group:
    """Table of a report as `tests.benchmarks.peers.compare.compare_with_peers` returns it."""
    lines = ["* the fastest of the others"]
    lines += [_peer(peer) for peer in report["peers"]] + [f"not timed: {why}" for why in report["left_out"]]
    return Group(_table(report), *map(Text, lines))


def _table(report: Mapping[str, Any]) -> Table:
    table = new_table(
        f"Against other engines, {report['dtype']}, greedy, {report['threads']} threads, requests in flight "
        f"as given: median (lowest-highest) of {report['rounds']} rounds in turns",
        *("", ">T", ">tokens/s", ">consensus / this", ">AR / this", ">same text"),
    )
    for load in report["loads"]:
        table.add_row(f"{load['batch']} in flight, {load['rows']} requests")
        for system in load["systems"]:
            table.add_row(
                ("* " if system["name"] == load["fastest_peer"] else "  ") + system["name"],
                str(system["token_budget"] or "-"),
                show_spread(system["tokens_per_s"], 0),
                show_spread(system["consensus_ratio"], 2),
                show_spread(system["ar_ratio"], 2),
                f"{system['rows_as_consensus']} of {load['rows']}",
            )
    return table


def _peer(peer: Mapping[str, Any]) -> str:
    share = peer["idle_cpu_share"]
    rest = "" if share is None else f", {100 * share:.1f} % of a core while the others worked"
    return f"{peer['name']}: {peer['version']}, loaded in {peer['load_s']:.0f} s{rest}"
