"""The table of faults: what was done to how many runs, and what their output was afterwards."""

from dataclasses import dataclass, field

from tests.faults.runs import Outcome

HEAD = (
    "scenario",
    "runs",
    "faults",
    "rows in",
    "rows out",
    "duplicates",
    "differing completions",
    "what the driver said",
)


@dataclass
class FaultTable:
    """Rows in the order of the tests."""

    rows: list[tuple[str, ...]] = field(default_factory=list)

    def add(self, scenario: str, *outcomes: Outcome, faults: int, runs: int = 1, said: str = "done") -> None:
        """Note a scenario.

        Args:
            outcomes: of each output at the end, summed here; none where nothing was to be written.
            faults: how many kills, broken requests or damaged files there were.
            runs: how many drivers were started for it.
            said: how the disturbed driver ended.
        """
        sums = (
            [sum(getattr(one, name) for one in outcomes) for name in Outcome.__dataclass_fields__]
            if outcomes
            else ["-"] * 4
        )
        self.rows.append((scenario, *map(str, (runs, faults, *sums)), said))

    def to_markdown(self) -> str:
        """The table as markdown."""
        lines = [HEAD, ("---",) * len(HEAD), *self.rows]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)
