"""Test doubles of the engine that take time, and that break when they are told to.

They write what `tests.fakes.FakeEngine` writes: text that is a function of prompt and limit alone. A `Stub`
is an engine factory that travels to actors by value, so that it works in any Ray.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.checkpoint.directory import fetch
from tests.fakes import FakeEngine

NODE_NAME = "ORTHRUS_TEST_NODE"  # in the environment of a simulated node's processes


@dataclass
class SlowEngine(FakeEngine):
    """A FakeEngine whose steps take `step_s` seconds, and that breaks at the step `fault_step`.

    Attributes:
        fault: "raise", "hang" (the step never comes back) or none.
    """

    step_s: float = 0.004
    fault: str | None = None
    fault_step: int = 0

    def step(self) -> list:
        """A step of FakeEngine, slower or broken."""
        if self.fault is not None and self.steps + 1 == self.fault_step:
            _break(self.fault)
        finished = super().step()
        time.sleep(self.step_s)
        self.busy_s += self.step_s
        return finished


@dataclass(frozen=True)
class Stub:
    """An engine factory.

    Attributes:
        marks: directory; every engine leaves a file there, named by the id of its process, with the name of
            the simulated node that it is on.
        step_s: seconds of a step.
        load_s: seconds until the engine is there.
        fault, fault_step: as of SlowEngine, for engines that find fewer than `faults` files in `marks`.
        faults: how many engines break; the others are sound.
        fetches: whether the engine fetches the model, of which it makes nothing.
        together: an engine is there once so many are: on a laden machine processes come one by one, on
            machines of their own they come at about the same time.
    """

    marks: str
    step_s: float = 0.004
    load_s: float = 0.0
    fault: str | None = None
    fault_step: int = 20
    faults: int = 0
    fetches: bool = False
    together: int = 1

    def __call__(self, spec: Any) -> SlowEngine:
        """Build an engine in an actor."""
        marks = Path(self.marks)
        marks.mkdir(parents=True, exist_ok=True)
        is_to_break = len(list(marks.iterdir())) < self.faults
        (marks / str(os.getpid())).write_text(os.environ.get(NODE_NAME, ""))
        if self.fetches:
            fetch(spec.checkpoint)
        time.sleep(self.load_s)
        while len(list(marks.iterdir())) < self.together:
            time.sleep(0.05)
        return SlowEngine(
            max_sequences=spec.decode.max_sequences,
            step_s=self.step_s,
            fault=self.fault if is_to_break else None,
            fault_step=self.fault_step,
        )


def _break(fault: str) -> None:
    if fault == "raise":
        raise RuntimeError("device-side assert triggered")
    while fault == "hang":
        time.sleep(3600)
