"""CUDA graphs of forwards over static buffers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from orthrus_core.errors import ConfigError

WARM_UPS = 3  # compilation, workspaces and lazy handles must be done before the capture


class GraphedForward:
    """One forward captured as a CUDA graph: replaying it launches everything at once.

    The caller writes the input buffers in place, then calls `replay`. Outputs are buffers outside the memory
    pool, so that no other graph of the pool overwrites them.
    """

    def __init__(
        self,
        forward: Callable[[], tuple[Tensor, ...]],
        *,
        device: torch.device,
        pool: Any = None,
        outputs: tuple[Tensor, ...] | None = None,
    ):
        """Run `forward` a few times on a side stream, then capture it.

        Args:
            forward: reads static buffers; without host syncs and with the same shapes every time.
            device: where it runs.
            pool: `pool` of another graph, to share its memory; graphs of a pool must not run at once.
            outputs: where to put the results; None: buffers of its own.
        Raises:
            ConfigError: the device is not CUDA.
        """
        if device.type != "cuda":
            raise ConfigError(f"CUDA graphs need a CUDA device, got {device}: run the forward itself instead")
        with torch.cuda.device(device):
            results = _warm_up(forward)
            self.outputs = outputs or tuple(torch.empty_like(result) for result in results)
            del results
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, pool=pool):
                for output, result in zip(self.outputs, forward(), strict=True):
                    output.copy_(result)

    @property
    def pool(self) -> Any:
        """The memory pool, for graphs that share it."""
        return self._graph.pool()

    def replay(self) -> tuple[Tensor, ...]:
        """Launch the forward; return its output buffers, valid until the next replay."""
        self._graph.replay()
        return self.outputs


def _warm_up(forward: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            outputs = forward()
    torch.cuda.current_stream().wait_stream(stream)
    return outputs
