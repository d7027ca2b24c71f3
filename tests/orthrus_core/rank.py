"""Rank 1 of two, a process beside that of a test, which is rank 0."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from orthrus_core import follow, join_ranks, load_slice
from orthrus_core.linear.native import NativeLinear
from orthrus_core.ranks import Ranks

ROOT = Path(__file__).parents[2]
END_S = 60


@contextlib.contextmanager
def two_ranks(directory: Path) -> Iterator[tuple[Ranks, subprocess.Popen]]:
    """Start rank 1 and meet it; what both know of each other is in the directory."""
    meeting = f"file://{directory}/meeting"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-m", __name__, meeting], cwd=ROOT, env=environment)
    try:
        ranks = join_ranks(rank=0, size=2, meeting=meeting)
        yield ranks, process
        if process.poll() is None:
            ranks.tell("end")
            process.wait(END_S)
        ranks.close()
    finally:
        process.kill()


@contextlib.contextmanager
def shared_model(ranks: Ranks, path: Path, *, dtype: str = "auto", needs_head: bool = True, fault: str = ""):
    """Rank 0's slice of a model, for engines, while rank 1 follows."""
    ranks.tell("load", path=str(path), dtype=dtype, needs_head=needs_head, fault=fault)
    try:
        yield load(ranks, str(path), dtype, needs_head)
    finally:
        ranks.tell("stop")


def load(ranks: Ranks, path: str, dtype: str, needs_head: bool):
    """Load this rank's slice."""
    kind = dtype if dtype == "auto" else getattr(torch, dtype)
    return load_slice(path, ranks, dtype=kind, needs_head=needs_head)


def main(meeting: str) -> None:
    """Follow one engine after the other."""
    torch.set_num_threads(1)
    ranks = join_ranks(rank=1, size=2, meeting=meeting)
    close, ranks.close = ranks.close, lambda: None
    multiply = NativeLinear.multiply
    while (order := ranks.hear()).name == "load":
        fault = order.facts.pop("fault")
        NativeLinear.multiply = beside if fault == "beside" else multiply
        follow(load(ranks, **order.facts))
    close()


def beside(self, rows, weight, bias, scale=None):
    """A product whose last bits depend on another row."""
    return torch.nn.functional.linear(rows, weight, bias) * (1 + 1e-5 * rows[..., :1, :1])


if __name__ == "__main__":
    main(sys.argv[1])
