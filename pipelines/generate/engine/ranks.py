"""The ranks of one engine: processes of the actor that leads them, on the node where Ray gave it its GPUs.

They are no actors of Ray's. An actor with N GPUs has them on one node or waits, all or none, as a placement
group of N bundles would (STRICT_PACK), and Ray Data counts, scales and restarts it like any other; ranks that
are its children end with it, whatever ends it. This file is also their program.
"""

import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from orthrus_core.errors import EngineError
from orthrus_core.ranks import Ranks, join_ranks

ROOT = Path(__file__).parents[3]
READY = "ready"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Share:
    """What a rank is told at its start.

    Attributes:
        directory: of the checkpoint, on this machine.
        dtype: of the weights: "auto" or a torch dtype's name.
        device_type: "cpu" or "cuda", where each rank has the GPU of its number.
        needs_head: as `load_slice` takes it.
        threads: torch threads.
        size: how many ranks there are.
    """

    directory: str
    dtype: str
    device_type: str
    needs_head: bool
    threads: int
    size: int

    def join(self, rank: int, meeting: str) -> Ranks:
        """Meet the others."""
        device = f"cuda:{rank}" if self.device_type == "cuda" else "cpu"
        return join_ranks(device, rank=rank, size=self.size, meeting=meeting)

    def load(self, ranks: Ranks):
        """Load this rank's slice of the model."""
        import torch

        from orthrus_core import load_slice

        torch.set_num_threads(self.threads)
        dtype = self.dtype if self.dtype == "auto" else getattr(torch, self.dtype)
        return load_slice(self.directory, ranks, dtype=dtype, needs_head=self.needs_head)


def load_shared(share: Share, on_lost: Callable[[str], None]):
    """Start the other ranks, meet them as rank 0, and load the model, of which each has a slice.

    Args:
        on_lost: told why, in a thread of its own, when another rank ends before the engine is closed.
    Returns:
        The slice of rank 0, for an `Engine`.
    Raises:
        EngineError: a rank ended at its start.
    """
    with tempfile.TemporaryDirectory(prefix="orthrus-ranks-") as directory:
        meeting = f"file://{directory}/meeting"
        others = {rank: _start(share, rank, meeting) for rank in range(1, share.size)}
        for rank, process in others.items():
            assert process.stdout is not None
            if process.stdout.readline().strip() != READY:
                raise EngineError(f"rank {rank} of the engine ended at its start: {_last_words(process)}")
        ranks = share.join(0, meeting)
    for rank, process in others.items():
        threading.Thread(target=_watch, args=(rank, process, ranks, on_lost), daemon=True).start()
    return share.load(ranks)


def _start(share: Share, rank: int, meeting: str) -> "subprocess.Popen[str]":
    logger.info("starting rank=%d of=%d", rank, share.size)
    return subprocess.Popen(
        [sys.executable, "-m", __name__, json.dumps([asdict(share), rank, meeting])],
        stdin=subprocess.PIPE,  # which ends when this process does
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
    )


def _watch(rank: int, process: "subprocess.Popen[str]", ranks: Ranks, on_lost: Callable[[str], None]) -> None:
    words = f"rank {rank} ended: {_last_words(process)}"
    if process.returncode:
        ranks.last_words.put(words)
        on_lost(f"the engine has lost a rank: {words}")


def _last_words(process: "subprocess.Popen[str]") -> str:
    """Wait until a rank ends, and return what it said of the reason."""
    assert process.stdout is not None
    lines = [line for line in process.stdout.read().splitlines() if line.strip()]
    return lines[-1] if process.wait() > 0 and lines else f"exit code {process.returncode}"


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def main(arguments: str) -> int:
    """Be a rank, until rank 0 closes its engine or ends."""
    from orthrus_core import follow

    share, rank, meeting = json.loads(arguments)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    print(READY, flush=True)
    try:
        follow(Share(**share).load(Share(**share).join(rank, meeting)))
    except Exception as error:
        traceback.print_exc()
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
