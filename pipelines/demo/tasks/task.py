"""The task record and the check of an answer."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

# What a kind hands back: the prompt, the worked text before the answer, the answer.
Parts = tuple[str, str, str]
Maker = Callable[[Random], Parts]


@dataclass(frozen=True)
class Task:
    """One prompt with its reference completion.

    Args:
        kind: name of the kind, `first+second` where two tasks are joined.
        prompt: what the user writes.
        completion: worked text; a deterministic function of the prompt.
        answer: what follows `Answer:`, one line per joined task.
    """

    kind: str
    prompt: str
    completion: str
    answer: str


def worded(rng: Random, *wordings: str) -> str:
    """Choose one wording of a prompt."""
    return rng.choice(wordings)


def single_task(maker: Maker, rng: Random) -> Task:
    """Make one task; its kind is the name of the maker."""
    prompt, working, answer = maker(rng)
    return Task(maker.__name__, prompt, f"{working}\nAnswer: {answer}", answer)


def joined_task(first: Task, second: Task) -> Task:
    """Put two tasks into one prompt; both answers are expected, in order."""
    return Task(
        kind=f"{first.kind}+{second.kind}",
        prompt=f"First: {first.prompt}\nThen: {second.prompt}",
        completion=f"First: {first.completion}\nThen: {second.completion}",
        answer=f"{first.answer}\n{second.answer}",
    )


def is_right(task: Task, completion_text: str) -> bool:
    """Check the answers of a completion; the wording around them is free.

    Args:
        task: the task that was asked.
        completion_text: decoded text without special tokens.
    """
    found = re.findall(r"Answer:[ \t]*(.*)", completion_text)
    return [_canonical(answer) for answer in found] == [_canonical(a) for a in task.answer.split("\n")]


def _canonical(answer: str) -> str:
    """Drop what does not change an answer: outer space, JSON spacing, a final full stop."""
    text = answer.strip()
    if text.startswith("{"):
        try:
            return json.dumps(json.loads(text))
        except json.JSONDecodeError:
            return text
    return text.removesuffix(".")
