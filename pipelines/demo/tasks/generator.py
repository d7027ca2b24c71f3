"""Seeded streams of tasks, split into training and held-out prompts."""

import hashlib
from collections.abc import Iterator
from random import Random
from typing import Literal, get_args

from orthrus_core.errors import ConfigError
from pipelines.demo.tasks.arithmetic import ARITHMETIC
from pipelines.demo.tasks.records import RECORDS
from pipelines.demo.tasks.stories import STORIES
from pipelines.demo.tasks.task import Maker, Task, joined_task, single_task
from pipelines.demo.tasks.text import TEXT
from pipelines.demo.tasks.units import UNITS

Split = Literal["train", "heldout"]

KINDS: tuple[Maker, ...] = (*ARITHMETIC, *STORIES, *UNITS, *RECORDS, *TEXT)
JOINED_SHARE = 0.1
HELDOUT_SHARE = 0.05


def generate_task(rng: Random) -> Task:
    """Draw one task; one in ten joins two kinds in one prompt."""
    task = single_task(rng.choice(KINDS), rng)
    if rng.random() < JOINED_SHARE:
        return joined_task(task, single_task(rng.choice(KINDS), rng))
    return task


def split_of(prompt: str) -> Split:
    """Decide the split by a stable hash, so that no held-out prompt is ever trained on."""
    digest = hashlib.sha256(prompt.encode()).digest()
    return "heldout" if int.from_bytes(digest[:8], "big") < HELDOUT_SHARE * 2**64 else "train"


def _holds_heldout_part(task: Task) -> bool:
    """Tell whether a joined prompt contains a single prompt that is held out."""
    if "+" not in task.kind:
        return False
    parts = task.prompt.removeprefix("First: ").split("\nThen: ")
    return any(split_of(part) == "heldout" for part in parts)


def generate_tasks(seed: int, count: int, split: Split = "train") -> Iterator[Task]:
    """Yield `count` tasks of one split, always the same for the same arguments.

    Prompts may repeat within a stream; no prompt occurs in both splits.

    Raises:
        ConfigError: `split` is no split.
    """
    if split not in get_args(Split):
        raise ConfigError(f"split must be one of {get_args(Split)}, got {split!r}")
    rng = Random(seed)
    found = 0
    while found < count:
        task = generate_task(rng)
        if split_of(task.prompt) == split and not (split == "train" and _holds_heldout_part(task)):
            found += 1
            yield task
