"""The CPU attention kernel alone: `python -m tests.benchmarks.attention [--against OLD_NATIVE.CPP]`.

Microseconds of one layer of SmolLM2-135M (9 heads, 3 K/V heads of 64) for blocks and for single rows by
context. Kernels take turns in one process and each one's best round counts. Keys and values are read from as
many layers in turn as the model has. No test; on an idle machine.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from orthrus_core.attention import kernel
from orthrus_core.attention.kernel import KernelShape, build_kernel, paged_attend
from orthrus_core.attention.rows import RowBuffer, Span, fill, span_rows

H, HKV, DH, PAGE_SIZE = 9, 3, 64, 16
LOADS = ((8, 1), (1, 8), (1, 1))  # sequences, rows of each
CPU = torch.device("cpu")


def main() -> None:
    """Print a line per dtype, load and context."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--against", type=Path, help="another native.cpp, timed beside this one")
    parser.add_argument("--contexts", nargs="+", type=int, default=[256, 2048, 6144])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sources = [*([options.against] if options.against else []), kernel.SOURCE]
    print("| dtype | sequences x rows | context | " + " | ".join(f"{s} us" for s in sources) + " |")
    for dtype in (torch.float32, torch.bfloat16):
        built = [build(source, KernelShape(DH, H // HKV, PAGE_SIZE, dtype)) for source in sources]
        for sequences, rows_each in LOADS:
            for context in options.contexts:
                call = new_load(sequences, rows_each, context, num_layers=options.layers, dtype=dtype)
                times = [[timed(call, path) for path in built] for _ in range(options.rounds)]
                best = np.array(times).min(0) / options.layers * 1e6
                cells = " | ".join(f"{us:.0f}" for us in best)
                print(f"| {str(dtype)[6:]} | {sequences} x {rows_each} | {context} | {cells} |", flush=True)


def build(source: Path, shape: KernelShape) -> str:
    """Return the path of the kernel of a source."""
    usual, kernel.SOURCE = kernel.SOURCE, source
    try:
        return build_kernel(shape)
    finally:
        kernel.SOURCE = usual


def timed(call: Callable[[str], None], path: str) -> float:
    """Return the seconds of a call of a kernel."""
    start = time.perf_counter()
    call(path)
    return time.perf_counter() - start


def new_load(
    sequences: int, rows_each: int, context: int, *, num_layers: int, dtype: torch.dtype
) -> Callable[[str], None]:
    """Return a call that runs all layers once, each with the last rows of every sequence."""
    pages_each = context // PAGE_SIZE
    pages = 1 + np.random.default_rng(0).permutation(sequences * pages_each).reshape(sequences, -1)
    spans = [Span(slot, context - rows_each, [0] * rows_each) for slot in range(sequences)]
    buffer = RowBuffer(sequences * rows_each, CPU)
    fill(buffer, span_rows(spans, view="ar", page_tables=pages, page_size=PAGE_SIZE))
    packed, page_tables = buffer.to_device(), torch.from_numpy(pages)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape).to(dtype)

    q, k, v = (random(buffer.num_rows, heads, DH) for heads in (H, HKV, HKV))
    cells = (sequences * pages_each + 1, HKV, PAGE_SIZE, DH)
    layers = [(random(*cells).view(*cells[:2], DH, PAGE_SIZE), random(*cells)) for _ in range(num_layers)]

    def call(path: str) -> None:
        for keys, values in layers:
            paged_attend(q, k, v, keys, values, packed, page_tables, DH**-0.5, 0, 0.0, path)

    return call


if __name__ == "__main__":
    main()
