"""The peer's end of the pipe: a line of JSON in, a line of JSON out; `process.py` is the other end.

Standard library alone, since the environments of other engines import it.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TextIO


class Peer(Protocol):
    """An engine with its model loaded."""

    version: str

    def reset(self) -> None:
        """Forget earlier prompts (not timed)."""

    def complete(
        self, prompts: list[list[int]], *, in_flight: int, max_new_tokens: int, eos_ids: list[int]
    ) -> list[list[int]]:
        """Return the emitted tokens of every prompt, greedy, the EOS included (timed)."""
        ...


def main(load: Callable[[Mapping[str, Any]], Peer]) -> None:
    """Serve the pipe that this program was started with.

    Args:
        load: gets the options, given as JSON on the command line, and loads the model.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what engines print must not get between the answers
    serve(load, json.loads(sys.argv[1]), sys.stdin, answers)


def serve(
    load: Callable[[Mapping[str, Any]], Peer],
    options: Mapping[str, Any],
    requests: Iterable[str],
    answers: TextIO,
) -> None:
    """Load, say so, and answer requests until there are no more.

    An answer holds `outputs` and `seconds`, of the work alone.
    """
    peer = load(options)
    _write(answers, {"version": peer.version})
    for line in requests:
        request = json.loads(line)
        peer.reset()
        started_at = time.perf_counter()
        outputs = peer.complete(**request)
        seconds = time.perf_counter() - started_at
        _write(answers, {"outputs": outputs, "seconds": seconds})


def _write(answers: TextIO, message: Mapping[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()
