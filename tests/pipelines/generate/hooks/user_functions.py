"""Functions as users write them."""

from typing import Any

Row = dict[str, Any]
calls: list[int] = []


def prepare(rows: list[Row]) -> list[Row]:
    """Prompts from numbers; raises on the batch where one is bad."""
    calls.append(len(rows))
    return [{"prompt": f"Add {row['a'] + 0} and 1.", "twice": row["a"] * 2} for row in rows]


def score(rows: list[Row]) -> list[Row | Exception]:
    """Lengths of completions; refuses short ones by hand."""
    return [
        ValueError(f"too short: {row['id']}")
        if len(row["completion"]) < 2
        else {**row, "length": len(row["completion"]), "good": len(row["completion"]) > 3}
        for row in rows
    ]


def drops_first(rows: list[Row]) -> list[Row]:
    """Loses a row of every batch."""
    return rows[1:]


def spoils_its_rows(rows: list[Row]) -> list[Row]:
    """Changes what it was given, then fails."""
    for row in rows:
        row["a"] += 1
    if len(rows) > 1:
        raise RuntimeError("too many")
    return rows


def returns_text(rows: list[Row]) -> list[Any]:
    """No rows."""
    return ["a" for _ in rows]
