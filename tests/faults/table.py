"""The table of faults: what was done to how many runs, and what their output was afterwards."""

from dataclasses import dataclass, field
from pathlib import Path

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
    """Rows in the order of the tests, also in a file, as far as they got.

    Attributes:
        path: the file.
    """

    path: Path
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
        name, end = (text.replace("|", "/").replace("\n", " ") for text in (scenario, said))
        self.rows.append((name, *map(str, (runs, faults, *sums)), end))
        self.path.parent.mkdir(exist_ok=True)
        self.path.write_text(self.to_markdown())

    def to_markdown(self) -> str:
        """The table as markdown."""
        lines = [HEAD, ("---",) * len(HEAD), *self.rows]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)
