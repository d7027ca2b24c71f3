"""Sums over the rows of one unit for the report, made where the rows are, so that nobody reads them again."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipelines.read.columns import COUNTERS, DIAGNOSTICS
from pipelines.read.own_rows import python_values

MOST_VALUES = 50  # of a column that the report groups by, in one unit; the rest is `other`
MOST_KINDS = 20  # of errors in one unit
MOST_EXAMPLES = 3
VALUE_LENGTH = 80
OTHER = "(other)"
NULL = "(null)"
WORK = tuple(name for name in COUNTERS if name in DIAGNOSTICS)
SUMS = ("rows", "errors", "completion_tokens", "steps", "step_tokens")


def unit_facts(output: pa.Table, group_by: Sequence[str] = ()) -> dict[str, Any]:
    """Sum a unit's rows up.

    Args:
        output: the unit's output columns.
        group_by: columns of it.
    Returns:
        lengths: sums by the power of two that holds the row's completion tokens; groups: sums by column and
        value; errors: kind to {count, examples: [{id, error}]}.
    """
    rows = _row_sums(output)
    lengths = [length_bucket(row["completion_tokens"]) if not row["errors"] else None for row in rows]
    groups = {
        name: keep_largest(sum_by(_group_names(output.column(name), name), rows), MOST_VALUES)
        for name in group_by
    }
    ids, errors = output.column("id").to_pylist(), output.column("error").to_pylist()
    return {"lengths": sum_by(lengths, rows), "groups": groups, "errors": _errors(ids, errors)}


def length_bucket(num_tokens: int) -> str:
    """The smallest power of two >= num_tokens, at least 8, as text (json has no other keys)."""
    return str(max(8, 1 << max(0, num_tokens - 1).bit_length()))


def _group_names(column: pa.ChunkedArray, name: str) -> list[str]:
    """Texts of a column's values; of those that Python has none for, why."""
    faults: list[str | None] = [None] * len(column)
    values = python_values(column, name, faults)
    return [
        value_text(value if fault is None else fault) for value, fault in zip(values, faults, strict=True)
    ]


def value_text(value: Any) -> str:
    """A group's name: text in one line, cut where it is long."""
    if value is None:
        return NULL
    text = " ".join(str(value).split())
    return text if len(text) <= VALUE_LENGTH else text[: VALUE_LENGTH - 1] + "…"


def error_kind(error: str) -> str:
    """An error's text without its numbers and quoted parts, so that equal faults count as one."""
    text = re.sub(r"'[^']*'|\"[^\"]*\"", "'…'", " ".join(error.split()))
    return re.sub(r"\d+", "N", text)[:VALUE_LENGTH]


def sum_by(keys: Iterable[str | None], rows: Iterable[Mapping[str, int]]) -> dict[str, dict[str, int]]:
    """Sums of rows by key; rows without a key are left out."""
    sums: dict[str, dict[str, int]] = {}
    for key, row in zip(keys, rows, strict=True):
        if key is not None:
            add_into(sums.setdefault(key, dict.fromkeys(SUMS, 0)), row)
    return sums


def add_into(sums: dict[str, int], more: Mapping[str, int]) -> None:
    """Add numbers to those of the same name, in place."""
    for name, value in more.items():
        sums[name] = sums.get(name, 0) + value


def add_work(facts: dict[str, Any], earlier: Mapping[str, Any]) -> None:
    """Add the steps of rows whose file does not tell them to a unit's sums, in place.

    Args:
        facts: of rows made now and earlier ones, as `unit_facts` and `count_rows` make them.
        earlier: what the file says of the rows that it had.
    """
    _add_steps(facts["counts"], earlier.get("counts", {}))
    pairs = [(facts["lengths"], earlier.get("lengths", {}))]
    pairs += [(groups, earlier.get("groups", {}).get(name, {})) for name, groups in facts["groups"].items()]
    for sums, before in pairs:
        for key in sums.keys() & before.keys():
            _add_steps(sums[key], before[key])


def _add_steps(sums: dict[str, int], more: Mapping[str, int]) -> None:
    add_into(sums, {name: more[name] for name in WORK if name in more})


def keep_largest(groups: Mapping[str, dict[str, int]], most: int) -> dict[str, dict[str, int]]:
    """The groups with most rows, the others summed up as one."""
    if len(groups) <= most:
        return dict(groups)
    named = sorted((key for key in groups if key != OTHER), key=lambda key: (-groups[key]["rows"], key))
    kept = {key: groups[key] for key in named[:most]}
    other = dict(groups.get(OTHER, {}))
    for key in named[most:]:
        add_into(other, groups[key])
    return {**kept, OTHER: other}


def merge_errors(kinds: dict[str, Any], more: Mapping[str, Any], most: int = MOST_KINDS) -> None:
    """Add errors by kind to those known, in place; kinds past `most` count as one."""
    for kind, entry in more.items():
        kind = kind if kind in kinds or len(kinds) < most else OTHER
        known = kinds.setdefault(kind, {"count": 0, "examples": []})
        known["count"] += entry["count"]
        known["examples"] = (known["examples"] + entry["examples"])[:MOST_EXAMPLES]


def _row_sums(output: pa.Table) -> list[dict[str, int]]:
    columns = ("error", "completion_tokens", "steps", "step_tokens")
    return [
        {
            "rows": 1,
            "errors": int(error is not None),
            "completion_tokens": tokens or 0,
            "steps": steps or 0,
            "step_tokens": step_tokens or 0,
        }
        for error, tokens, steps, step_tokens in zip(
            *(output.column(name).to_pylist() for name in columns), strict=True
        )
    ]


def _errors(ids: Sequence[str], errors: Sequence[str | None]) -> dict[str, Any]:
    kinds: dict[str, Any] = {}
    for row_id, error in zip(ids, errors, strict=True):
        if error is not None:
            example = {"id": row_id[:VALUE_LENGTH], "error": error[:300]}
            merge_errors(kinds, {error_kind(error): {"count": 1, "examples": [example]}})
    return kinds
