"""Gradients summed over processes while the backward still runs."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter

BUCKET_BYTES = 32 << 20  # large enough for full bandwidth, small enough to start early


class GradientSums:
    """All-reduces gradients in buckets, each as soon as its last gradient is there.

    Instead of DistributedDataParallel, which wraps a module's `forward`: an objective runs two views of one
    model in a step, one without gradient, and calls other methods than `forward`. Buckets are sent in one
    order on every process, whichever gradients a process has; a missing one counts as zero.
    """

    def __init__(self, parameters: Sequence[Parameter], bucket_bytes: int = BUCKET_BYTES) -> None:
        """Watch parameters that every process holds whole."""
        # Gradients come about in the reverse of the order of use.
        self._buckets = _buckets(list(reversed(parameters)), bucket_bytes)
        self._bucket_of = {p: index for index, bucket in enumerate(self._buckets) for p in bucket}
        self._missing: list[int] = []
        self._works: list[tuple[dist.Work, Tensor]] = []
        self._is_active = False
        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(self._arrived)

    def start(self) -> None:
        """Send the gradients of the backward that comes next."""
        self._is_active = True
        self._missing = [len(bucket) for bucket in self._buckets]
        self._works = []

    def finish(self) -> None:
        """Send what has not been sent, wait, and put the sums in place."""
        self._send(everything=True)
        for bucket, (work, flat) in zip(self._buckets, self._works, strict=True):
            work.wait()
            parts = flat.split([parameter.numel() for parameter in bucket])
            for parameter, part in zip(bucket, parts, strict=True):
                parameter.grad = part.view_as(parameter)
        self._is_active = False
        self._works = []

    def _arrived(self, parameter: Parameter) -> None:
        if self._is_active:
            self._missing[self._bucket_of[parameter]] -= 1
            self._send(everything=False)

    def _send(self, *, everything: bool) -> None:
        for index in range(len(self._works), len(self._buckets)):
            if self._missing[index] > 0 and not everything:
                return
            flat = torch.cat([_gradient(parameter).flatten() for parameter in self._buckets[index]])
            self._works.append((dist.all_reduce(flat, async_op=True), flat))


def _gradient(parameter: Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _buckets(parameters: Sequence[Parameter], max_bytes: int) -> list[list[Parameter]]:
    """Neighbours together, up to `max_bytes` each."""
    buckets: list[list[Parameter]] = []
    size = max_bytes
    for parameter in parameters:
        num_bytes = parameter.numel() * parameter.element_size()
        if size + num_bytes > max_bytes:
            buckets.append([])
            size = 0
        buckets[-1].append(parameter)
        size += num_bytes
    return buckets
