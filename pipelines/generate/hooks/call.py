"""Calling a hook on rows: what is wrong with one row is found and said of that row alone."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipelines.generate.hooks.hook import Hook
from pipelines.read.source import typed_column

Row = dict[str, Any]


def made_columns(hook: Hook, rows: Sequence[Row], errors: list[str | None]) -> dict[str, pa.Array]:
    """The columns that a hook makes of rows; those that have an error are not shown to it.

    Args:
        errors: of each row; one that the hook fails on gets an error, in place.
    Returns:
        The hook's columns in its types, as long as `rows`; null where there is an error.
    """
    asked = [place for place, error in enumerate(errors) if error is None]
    answers = _answers(hook, [rows[place] for place in asked])
    made: list[Mapping[str, Any]] = [{}] * len(rows)
    for place, answer in zip(asked, answers, strict=True):
        if isinstance(answer, str):
            errors[place] = f"{hook.option}: {answer}"
        else:
            made[place] = answer
    values = {name: [row.get(name) for row in made] for name in hook.columns.names}
    return {one.name: typed_column(one.name, one.type, values[one.name], errors) for one in hook.columns}


def _answers(hook: Hook, rows: Sequence[Row]) -> list[Mapping[str, Any] | str]:
    """Of each row what came back, or what is wrong; rows that fail are tried in halves, down to one."""
    if not rows:
        return []
    try:
        found = list(hook.function(copy.deepcopy(list(rows))))
        if len(found) != len(rows):
            raise ValueError(f"{len(found)} rows came back for {len(rows)}")
    except Exception as error:  # whatever the user's code raises is about these rows
        if len(rows) == 1:
            return [_text(error)]
        half = len(rows) // 2
        return _answers(hook, rows[:half]) + _answers(hook, rows[half:])
    return [_checked(hook, one) for one in found]


def _checked(hook: Hook, answer: Any) -> Mapping[str, Any] | str:
    if isinstance(answer, Exception):
        return _text(answer)
    if not isinstance(answer, Mapping):
        return f"a row must come back as a dict, got {type(answer).__name__}"
    missing = [name for name in hook.columns.names if name not in answer]
    return f"the row came back without {', '.join(missing)}" if missing else answer


def _text(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:1000]
