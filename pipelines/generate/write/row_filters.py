"""Row filters: which rows of a unit go to dropped/, and why.

Expressions run in RE2 (Arrow's own), whose time is linear in the text: none can hang a worker, and whether a
row is kept never depends on how fast the machine is.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.generate.config.output import RowFilters
from pipelines.read.columns import TableLayout


def dropped_reasons(table: pa.Table, filters: RowFilters) -> list[str | None]:
    """Of each row, the first filter that it fails as "name: what it is"; None: it is kept.

    Args:
        table: output columns.
    """
    columns = {name: table.column(name) for name in ("completion", "finish_reason", "completion_tokens")}
    rows = zip(*(column.to_pylist() for column in columns.values()), strict=True)
    found = {
        name: pc.match_substring_regex(columns["completion"], pattern).to_pylist()
        for name in ("regex", "not_regex")
        if (pattern := getattr(filters, name)) is not None
    }
    if filters.keep is not None:
        found["keep"] = table.column(TableLayout.within(filters.keep)).to_pylist()
    reasons: list[str | None] = []
    for index, (text, finish_reason, tokens) in enumerate(rows):
        if text is None:
            reasons.append("error" if filters.drop_errors else None)
            continue
        matches = {name: values[index] for name, values in found.items()}
        reasons.append(next(_failures(text, finish_reason, tokens, matches, filters), None))
    return reasons


def count_reasons(reasons: list[str | None]) -> dict[str, int]:
    """Counts of a unit: dropped, and dropped_NAME for each filter that dropped a row."""
    counts = {"dropped": 0}
    for reason in reasons:
        if reason is not None:
            name = f"dropped_{reason.partition(':')[0]}"
            counts["dropped"] += 1
            counts[name] = counts.get(name, 0) + 1
    return counts


def is_json(text: str) -> bool:
    """Whether a text is one JSON value, as the standard has it: NaN and Infinity are none."""
    try:
        json.loads(text, parse_constant=_refuse, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return False
    return True


def _failures(
    text: str, finish_reason: str, tokens: int, matches: Mapping[str, bool | None], filters: RowFilters
) -> Iterator[str]:
    """Filters that a row fails, in the order of the options."""
    if filters.finish_reason is not None and finish_reason not in filters.finish_reason:
        yield f"finish_reason: {finish_reason}"
    for unit, value in (("tokens", tokens), ("chars", len(text))):
        least, most = getattr(filters, f"min_{unit}"), getattr(filters, f"max_{unit}")
        if least is not None and value < least:
            yield f"min_{unit}: {value} < {least}"
        if most is not None and value > most:
            yield f"max_{unit}: {value} > {most}"
    if not matches.get("regex", True):
        yield "regex: not found"
    if matches.get("not_regex", False):
        yield "not_regex: found"
    if not matches.get("keep", True):
        yield f"keep: {filters.keep} is {json.dumps(matches['keep'])}"
    if filters.valid_json and not is_json(text):
        yield "valid_json: it is none"


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
