"""What changed between two reports of the evaluate job."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from orthrus_core.errors import ConfigError

# What an entry of a list is known by; the rest of it is figures.
NAMES = ("prompt_set", "dtype", "temperature", "batch", "batches", "context", "system", "name", "mode")
UNCOMPARED = ("created", "ended", "seconds", "differences", "tokens")


def compare_reports(before: Path, after: Path) -> RenderableType:
    """Every figure and every option that differs, with the ratio of numbers.

    Raises:
        ConfigError: a file that cannot be read or is no report.
    """
    old, new = (dict(figures(read_report(path))) for path in (before, after))
    changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    lines = [_line(name, old.get(name), new.get(name)) for name in changed]
    same = len({**old, **new}) - len(changed)
    return Group(*map(Text, lines), Text(f"{len(changed)} differ, {same} are the same"))


def _line(name: str, old: Any, new: Any) -> str:
    ratio = _ratio(old, new)
    return f"{name}: {_shown(old)} -> {_shown(new)}" + (f" (x {ratio})" if ratio else "")


def read_report(path: Path) -> Mapping[str, Any]:
    """A report of the evaluate job."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--compare: cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"--compare: {path} is not json: {error}") from None
    if not isinstance(report, dict) or "prompt_sets" not in report:
        raise ConfigError(f"--compare: {path} is no report of jobs/evaluate.py")
    return report


def figures(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in a report by a name: `texts[gsm8k, bfloat16, 0, 1].exactness.share.value`."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key not in UNCOMPARED and not (name.endswith("]") and key in NAMES):
                yield from figures(inner, f"{name}.{key}" if name else key)
    elif isinstance(value, list) and value and all(isinstance(inner, Mapping) for inner in value):
        for place, inner in enumerate(value):
            known_by = [_shown(inner[key]) for key in NAMES if inner.get(key) is not None]
            yield from figures(inner, f"{name}[{', '.join(known_by) or place}]")
    else:
        yield name, value


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return "-".join(map(_shown, value))
    return "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _ratio(old: Any, new: Any) -> str:
    numbers = [
        value for value in (old, new) if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    return f"{new / old:.3f}" if len(numbers) == 2 and old else ""
