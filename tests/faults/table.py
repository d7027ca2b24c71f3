"""The table of faults: what was done to how many runs, and what their output was afterwards."""

from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.runs import Outcome, Texts, compare

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

    def add(
        self,
        scenario: str,
        outcome: Outcome | None = None,
        *,
        faults: int,
        runs: int = 1,
        said: str = "done",
    ) -> None:
        """Note a scenario.

        Args:
            outcome: of the output at the end; None where nothing was to be written.
            faults: how many kills, broken requests or damaged files there were.
            runs: how many drivers were started for it.
            said: how the disturbed driver ended.
        """
        found = astuple(outcome) if outcome else ["-"] * 4
        name, end = (text.replace("|", "/").replace("\n", " ") for text in (scenario, said))
        self.rows.append((name, *map(str, (runs, faults, *found)), end))
        self.path.parent.mkdir(exist_ok=True)
        self.path.write_text(self.to_markdown())

    def assert_whole(
        self, scenario: str, output: Path | str, expected: Texts, filesystem: Any = None, **details
    ) -> None:
        """Note a scenario; its output must hold every row once, every text the undisturbed run's.

        Args:
            details: faults, runs and said of `add`.
        """
        outcome = compare(str(output), expected, filesystem)
        self.add(scenario, outcome, **details)
        assert outcome.is_whole, outcome

    def to_markdown(self) -> str:
        """The table as markdown."""
        lines = [HEAD, ("---",) * len(HEAD), *self.rows]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)
