"""The processes that run one model together, each with a slice of it: the only seam to torch.distributed.

Rank 0 leads: it tells the others what to run. What is summed over ranks is gathered and added in their order,
row by row, so that no row's bits depend on how many others there are.
"""

import contextlib
import json
import os
import queue
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from orthrus_core.errors import EngineError, reason_of

ORDER_BYTES = 4096  # of an order without its tensors
ANSWER = timedelta(minutes=10)  # in which ranks must answer each other; a kernel may be compiled meanwhile
LAST_WORDS_S = 2.0  # in which a rank that failed is seen to have ended
IDLE = timedelta(days=365)  # between two orders


@dataclass(frozen=True)
class Order:
    """What rank 0 tells the others to do.

    Attributes:
        name: of the order.
        facts: that belong to it.
        tensors: likewise, on the device of whoever hears it.
    """

    name: str
    facts: dict[str, Any]
    tensors: list[Tensor]


class Ranks:
    """One of the processes, which all call the same methods in the same order.

    Attributes:
        rank: of this process, from 0.
        size: how many there are.
        device: of this process's slice of the model.
        leader: on rank 0, who gives the orders now.
        last_words: of ranks that ended, from whoever started them.
    """

    leader: object = None

    def __init__(self, device: torch.device):
        """Take the default process group, which is there."""
        self.rank, self.size, self.device = dist.get_rank(), dist.get_world_size(), device
        self.last_words: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._orders = dist.new_group(backend="gloo", timeout=IDLE if self.rank else ANSWER)
        dist.barrier()  # from here on nobody needs the place where they met

    def sum(self, part: Tensor) -> Tensor:
        """Return the sum of every rank's tensor, the same bits on all of them.

        Args:
            part: of any shape, the same on every rank; numbers of half precision are added in float32.
        """
        parts = part.new_empty(self.size, *part.shape)
        with self._together():
            dist.all_gather([_bytes_of(one) for one in parts], _bytes_of(part.contiguous()))
        total = parts[0].to(torch.promote_types(part.dtype, torch.float32))
        for other in parts[1:]:
            total += other
        return total.to(part.dtype)

    def gather(self, part: Tensor) -> Tensor:
        """Return (..., size * n) of every rank's (..., n), side by side, on rank 0; elsewhere `part`."""
        part = part.contiguous()
        parts = [torch.empty_like(part) for _ in range(self.size)] if self.rank == 0 else None
        with self._together():
            dist.gather(_bytes_of(part), None if parts is None else [_bytes_of(one) for one in parts], dst=0)
        return part if parts is None else torch.cat(parts, dim=-1)

    def tell(self, name: str, tensors: Sequence[Tensor] = (), **facts: Any) -> None:
        """Give the other ranks an order; they get copies of the tensors."""
        kinds = [[str(tensor.dtype).removeprefix("torch."), *tensor.shape] for tensor in tensors]
        text = json.dumps([name, facts, kinds]).encode()
        message = torch.zeros(ORDER_BYTES, dtype=torch.uint8)
        message[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        self._send(message, [tensor.to(self.device).contiguous() for tensor in tensors])

    def hear(self) -> Order:
        """Wait for the next order, as long as it takes."""
        message = torch.empty(ORDER_BYTES, dtype=torch.uint8)
        with self._together():
            dist.broadcast(message, src=0, group=self._orders)
        name, facts, kinds = json.loads(message.numpy().tobytes().rstrip(b"\0"))
        tensors = [
            torch.empty(shape, dtype=getattr(torch, dtype), device=self.device) for dtype, *shape in kinds
        ]
        self._send(None, tensors)
        return Order(name, facts, tensors)

    def _send(self, message: Tensor | None, tensors: Sequence[Tensor]) -> None:
        """Bring rank 0's message, where it is not there yet, and tensors to the others."""
        with self._together():
            if message is not None:
                dist.broadcast(message, src=0, group=self._orders)
            for tensor in tensors:
                if tensor.numel():
                    dist.broadcast(_bytes_of(tensor), src=0)

    def close(self) -> None:
        """Part from the others."""
        dist.destroy_process_group()

    @contextlib.contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            try:
                why = self.last_words.get(timeout=LAST_WORDS_S)
            except queue.Empty:
                why = reason_of(error)
            raise EngineError(
                f"rank {self.rank} of {self.size} has lost another rank, which ended or did not answer in "
                f"time, and so the engine ends: {why}"
            ) from error


def join_ranks(
    device: torch.device | str = "cpu",
    *,
    rank: int = -1,
    size: int = -1,
    meeting: str = "env://",
) -> Ranks:
    """Meet the other ranks, on the same machine; waits until all are there.

    Args:
        device: of this rank's slice; gloo connects ranks on CPUs, nccl those on GPUs.
        rank: from 0; where it is not given, the environment's, as torchrun sets it.
        size: how many there are; likewise.
        meeting: where they meet, an `init_method` of torch.distributed.
    """
    device = torch.device(device)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # what they say to each other stays on the machine
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=meeting,
        rank=rank,
        world_size=size,
        timeout=ANSWER,
    )
    return Ranks(device)


def _bytes_of(tensor: Tensor) -> Tensor:
    """(bytes,) uint8, sharing memory: every backend carries bytes."""
    return tensor.view(-1).view(torch.uint8)
