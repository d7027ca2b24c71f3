"""CUDA graphs of forwards over static buffers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from orthrus_core.errors import ConfigError

Outputs = tuple[Tensor, ...]
Forward = Callable[[], Outputs]

WARM_UPS = 3  # compilation, workspaces and lazy handles must be done before the capture


class GraphedForward:
    """One forward captured as a CUDA graph: replaying it launches everything at once.

    The caller writes the input buffers in place, then calls `replay`. Outputs are buffers outside the memory
    pool, so that no other graph of the pool overwrites them.
    """

    def __init__(
        self,
        forward: Forward,
        *,
        device: torch.device,
        pool: Any = None,
        new_outputs: Callable[[Outputs], Outputs] | None = None,
    ):
        """Run `forward` a few times on a side stream, then capture it.

        Args:
            forward: reads static buffers; without host syncs and with the same shapes every time.
            device: where it runs.
            pool: `pool` of another graph, to share its memory; graphs of a pool must not run at once.
            new_outputs: where to put results like these; None: buffers of its own.
        Raises:
            ConfigError: the device is not CUDA.
        """
        if device.type != "cuda":
            raise ConfigError(f"CUDA graphs need a CUDA device, got {device}: run the forward itself instead")
        with torch.cuda.device(device):
            results = _warm_up(forward)
            self.outputs = (new_outputs or _buffers_like)(results)
            del results
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, pool=pool):
                for output, result in zip(self.outputs, forward(), strict=True):
                    output.copy_(result)

    @property
    def pool(self) -> Any:
        """The memory pool, for graphs that share it."""
        return self._graph.pool()

    def replay(self) -> Outputs:
        """Launch the forward; return its output buffers, valid until the next replay."""
        self._graph.replay()
        return self.outputs


class ForwardGraphs:
    """The CUDA graphs of a runner, one per part of a forward and shape of its rows, in one memory pool.

    The first output, hidden states (T, D) or logits (R, V), lies in one buffer per part, which the graphs of
    all shapes share.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._graphs: dict[tuple[str, tuple[int, ...]], GraphedForward] = {}
        self._firsts: dict[str, Tensor] = {}

    def clear(self) -> None:
        """Forget all graphs: forwards are others from now on."""
        self._graphs.clear()

    def replay(self, part: str, shape: tuple[int, ...], forward: Forward) -> Outputs:
        """Run one part of a forward, whose inputs lie in fixed buffers; captured the first time.

        Args:
            shape: rows of each view.
        """
        if (part, shape) not in self._graphs:
            self._graphs[part, shape] = GraphedForward(
                forward,
                device=self._device,
                pool=next((graph.pool for graph in self._graphs.values()), None),
                new_outputs=lambda results: (
                    self._first_like(part, results[0]),
                    *_buffers_like(results[1:]),
                ),
            )
        return self._graphs[part, shape].replay()

    def _first_like(self, part: str, result: Tensor) -> Tensor:
        """Return the first rows of the part's buffer, which grows where it must."""
        T, width = result.shape
        if part not in self._firsts or len(self._firsts[part]) < T:
            self._firsts[part] = result.new_empty(T, width)
        return self._firsts[part][:T]


def _buffers_like(results: Outputs) -> Outputs:
    return tuple(torch.empty_like(result) for result in results)


def _warm_up(forward: Forward) -> Outputs:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            outputs = forward()
    torch.cuda.current_stream().wait_stream(stream)
    return outputs
