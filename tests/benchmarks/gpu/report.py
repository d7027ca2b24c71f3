"""Results of the sections as JSON and Markdown, written after every row: a time limit loses nothing."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclass
class Section:
    """One table.

    Attributes:
        title: heading.
        note: what the figures mean and under which conditions they hold.
        rows: one dict per line; columns in order of appearance.
        stopped: why lines are missing, if they are.
    """

    title: str
    note: str
    rows: list[Row] = field(default_factory=list)
    stopped: str | None = None

    @property
    def num_failed(self) -> int:
        """Lines that did not pass; lines without a target are not counted."""
        return sum(row.get("passed") is False for row in self.rows)

    def markdown(self) -> str:
        """Return heading, note and table."""
        columns = list(dict.fromkeys(column for row in self.rows for column in row))
        lines = [f"## {self.title}", "", self.note, ""]
        if columns:
            lines += ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
            lines += ["| " + " | ".join(_cell(row.get(name)) for name in columns) + " |" for row in self.rows]
        if self.stopped:
            lines += ["", f"Stopped: {self.stopped}."]
        return "\n".join(lines) + "\n"


@dataclass
class Report:
    """All tables of one run.

    Attributes:
        conditions: device, versions, shape, dtype.
        directory: where `gpu.json` and `gpu.md` go.
        sections: in the order they ran.
    """

    conditions: Row
    directory: Path
    sections: list[Section] = field(default_factory=list)

    @property
    def num_failed(self) -> int:
        """Lines of all tables that did not pass."""
        return sum(section.num_failed for section in self.sections)

    def write(self) -> None:
        """Write both files."""
        self.directory.mkdir(parents=True, exist_ok=True)
        tables = {
            section.title: {"note": section.note, "rows": section.rows, "stopped": section.stopped}
            for section in self.sections
        }
        (self.directory / "gpu.json").write_text(
            json.dumps(
                {"conditions": self.conditions, "failed": self.num_failed, "sections": tables}, indent=2
            )
        )
        heading = ", ".join(f"{name} {value}" for name, value in self.conditions.items())
        parts = [f"# GPU measurements\n\n{heading}\n", *(section.markdown() for section in self.sections)]
        (self.directory / "gpu.md").write_text("\n".join(parts))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "pass" if value else "FAIL"
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "/").replace("\n", " ")
