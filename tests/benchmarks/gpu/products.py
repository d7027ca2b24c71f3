"""Matrix products of a model's layers: microseconds and bits by number of rows, torch and kernel."""

from collections.abc import Iterator
from typing import Any

import torch

from orthrus_core.errors import ConfigError
from orthrus_core.linear.backend import LinearBackend
from orthrus_core.linear.choose import linear_backends
from orthrus_core.models.cost import ModelShape
from tests.benchmarks.gpu.steps import seconds_of

Row = dict[str, Any]
ROWS = (1, 2, 8, 16, 17, 32, 64, 128, 256, 257, 512, 1024, 2048)
REPEATS = 10


def layers_of(shape: ModelShape) -> dict[str, tuple[int, int]]:
    """Return (N, K) of each kind of product in a forward."""
    D, Dh = shape.hidden_size, shape.head_dim
    return {
        "q": (shape.num_heads * Dh, D),
        "k": (shape.num_kv_heads * Dh, D),
        "o": (D, shape.num_heads * Dh),
        "gate": (shape.intermediate_size, D),
        "down": (D, shape.intermediate_size),
        "output": (shape.vocab_size, D),
    }


def time_products(shape: ModelShape, *, dtype: torch.dtype, device: torch.device) -> Iterator[Row]:
    """Yield a line per product and backend: microseconds by M, and the M whose first row has M = 1's bits."""
    backends, refusal = _backends(dtype, device)
    if refusal:
        yield {"product": "kernel", "result": "not usable", "why": refusal}
    generator = torch.Generator(device).manual_seed(0)
    for name, (N, K) in layers_of(shape).items():
        weight = torch.randn(N, K, device=device, dtype=dtype, generator=generator) * 0.02
        rows = torch.randn(ROWS[-1], K, device=device, dtype=dtype, generator=generator)
        for backend in backends:
            yield {"product": name, "N": N, "K": K, "backend": backend.name} | _line(backend, rows, weight)


def _backends(dtype: torch.dtype, device: torch.device) -> tuple[tuple[LinearBackend, ...], str]:
    try:
        return linear_backends("auto", dtype=dtype, device_type=device.type), ""
    except ConfigError as error:
        return linear_backends("plain", dtype=dtype, device_type=device.type), str(error)


def _line(backend: LinearBackend, rows: torch.Tensor, weight: torch.Tensor) -> Row:
    first = backend.multiply(rows[:1], weight, None)[0]
    agreeing, line = [], {}
    for M in ROWS:
        part = rows[:M]
        if torch.equal(backend.multiply(part, weight, None)[0], first):
            agreeing.append(M)
        seconds = seconds_of(
            lambda part=part: backend.multiply(part, weight, None), rows.device, repeats=REPEATS
        )
        line[f"M={M}, us"] = seconds * 1e6
    agree = "all" if len(agreeing) == len(ROWS) else ", ".join(map(str, agreeing))
    is_promised = backend.name != "plain"
    return line | {"bits of M=1": agree, "passed": agree == "all" if is_promised else None}
