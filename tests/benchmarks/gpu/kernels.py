"""How long one layer's attention takes in other kernel sizes than the default: for tuning the default."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from orthrus_core.attention.backend import PagedAttend
from orthrus_core.attention.rows import RowBuffer, Span, fill, span_rows
from orthrus_core.attention.spec import AttentionSpec
from orthrus_core.attention.triton_paged import TritonBackend, default_sizes
from orthrus_core.attention.view import AttentionLayer
from orthrus_core.compilation.graphs import GraphedForward
from tests.benchmarks.gpu.steps import seconds_of

Row = dict[str, Any]
COLD_BYTES = 2**28  # of K/V in turn, more than any cache between memory and processors holds
MOST_LAYERS = 64
CHANGES: tuple[dict[str, int], ...] = (
    {},
    {"queries": 32},
    {"queries": 128, "num_warps": 8},
    {"tile_cells": 64},
    {"split_length": 512},
    {"num_warps": 8},
    {"num_stages": 3},
    {"num_stages": 7},
)


@dataclass(frozen=True)
class Load:
    """Sequences of one length, each with as many rows at its end."""

    sequences: int
    rows_each: int
    context: int


def time_kernels(
    spec: AttentionSpec, loads: Sequence[Load], changes: Sequence[dict[str, int]] = CHANGES
) -> Iterator[Row]:
    """Time every load in the default sizes with some of them changed.

    A layer that follows another finds nothing of its own K/V in a cache, as in a whole forward.
    """
    default = default_sizes(spec)
    for load in loads:
        layers = _Layers(spec, load)
        for change in changes:
            sizes = replace(default, **change)
            if spec.repeats > sizes.queries:
                continue
            seconds = layers.seconds(TritonBackend(spec, sizes))
            yield {
                "sequences": load.sequences,
                "rows_each": load.rows_each,
                "context": load.context,
                "sizes": ", ".join(f"{name} {size}" for name, size in change.items()) or "default",
                "us": seconds * 1e6,
                "gb_per_s": layers.bytes_read / seconds / 1e9,
            }


class _Layers:
    """Queries, and K/V of several layers, for one load."""

    def __init__(self, spec: AttentionSpec, load: Load):
        self._spec = spec
        pages_each = -(-spec.max_context // spec.page_size)
        pages = 1 + np.random.default_rng(0).permutation(load.sequences * pages_each)
        spans = [
            Span(slot, load.context - load.rows_each, [0] * load.rows_each) for slot in range(load.sequences)
        ]
        self._rows = span_rows(
            spans, view="ar", page_tables=pages.reshape(load.sequences, -1), page_size=spec.page_size
        )
        buffer = RowBuffer(load.sequences * load.rows_each, spec.device)
        fill(buffer, self._rows)
        self._packed = buffer.to_device()
        self._page_tables = torch.from_numpy(self._rows.page_tables).to(spec.device)
        cell_bytes = 2 * spec.num_kv_heads * spec.head_dim * spec.dtype.itemsize
        self.bytes_read = load.sequences * load.context * cell_bytes
        self._num_layers = min(MOST_LAYERS, 1 + COLD_BYTES // self.bytes_read) if _on_cuda(spec) else 1
        self._cache = spec.new_cache(num_layers=self._num_layers, num_pages=len(pages) + 1)
        for tensor in (*self._cache.keys, *self._cache.values):
            tensor.normal_()
        self._q = self._random(spec.num_heads)
        self._k, self._v = self._random(spec.num_kv_heads), self._random(spec.num_kv_heads)

    def seconds(self, backend: TritonBackend) -> float:
        """Return the seconds of one layer."""
        arrangement = backend.arrange(self._rows, len(self._q))
        attend = PagedAttend(backend, self._cache, self._packed, self._page_tables, arrangement)
        layer = AttentionLayer(0, self._spec.head_dim**-0.5)

        def forward() -> tuple[Tensor]:
            out = self._q
            for index in range(self._num_layers):
                out = backend.attend(self._q, self._k, self._v, layer, attend.of_layer(index))
            return (out,)

        call: Callable[[], object] = forward
        if _on_cuda(self._spec):
            call = GraphedForward(forward, device=self._spec.device).replay
        return seconds_of(call, self._spec.device) / self._num_layers

    def _random(self, heads: int) -> Tensor:
        shape = (self._packed.shape[1], heads, self._spec.head_dim)
        return torch.randn(shape, dtype=self._spec.dtype, device=self._spec.device)


def _on_cuda(spec: AttentionSpec) -> bool:
    return spec.device.type == "cuda"
