"""Are the answers right?"""

import importlib.util
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from orthrus_core.errors import ConfigError
from pipelines.demo.tasks import Task, is_right
from pipelines.evaluate.config import PromptSetConfig
from pipelines.evaluate.prompts import PromptRow

MARK = "####"  # what GSM8K puts before the final number
CODE_NOTE = "answers are code, which is not run here; grade the completions in a sandbox of your own"


def check_grader(name: str, source: PromptSetConfig) -> None:
    """Refuse what could only fail after hours.

    Raises:
        ConfigError: math-verify is asked for and not installed.
    """
    if source.score == "math" and importlib.util.find_spec("math_verify") is None:
        raise ConfigError(
            f"prompt_sets.{name}.score: the package math-verify is not installed: pip install math-verify; "
            "score=null checks no answers"
        )


def grade(score: str | None, rows: Sequence[PromptRow], texts: Sequence[str]) -> list[bool] | None:
    """Say of every completion whether its answer is right; None where answers are not checked.

    Args:
        score: of the prompt set's config.
        rows: all with an answer.
        texts: decoded completions, without special tokens.
    """
    if score not in ("demo", "math"):
        return None
    is_like = _is_demo_answer if score == "demo" else _is_same_value
    return [is_like(row, text) for row, text in zip(rows, texts, strict=True)]


def summary(rows: Sequence[PromptRow], ar: Sequence[bool], consensus: Sequence[bool]) -> Mapping[str, Any]:
    """Grades of both modes.

    Returns:
        `rows`, `right` and `share` of right ones in [0, 1], of AR; `by_kind`, kind to [right, rows], where
        there are kinds; `consensus_right`, and `graded_alike`, the rows that both have right or both wrong.
    """
    by_kind: dict[str, list[int]] = {}
    for row, is_right_one in zip(rows, ar, strict=True):
        if row.kind is not None:
            counts = by_kind.setdefault(row.kind, [0, 0])
            counts[0] += is_right_one
            counts[1] += 1
    return {
        "rows": len(rows),
        "right": sum(ar),
        "share": sum(ar) / len(rows),
        "by_kind": dict(sorted(by_kind.items())),
        "consensus_right": sum(consensus),
        "graded_alike": sum(one == other for one, other in zip(ar, consensus, strict=True)),
    }


def _is_demo_answer(row: PromptRow, text: str) -> bool:
    return is_right(Task(row.kind or "", prompt="", completion="", answer=row.answer or ""), text)


def _is_same_value(row: PromptRow, text: str) -> bool:
    """Whether the last mathematical value of the text equals the answer, as math-verify reads both."""
    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns of each text that it cannot read
    gold = (row.answer or "").rsplit(MARK, 1)[-1].strip()
    return bool(verify(parse(f"${gold}$"), parse(text)))
