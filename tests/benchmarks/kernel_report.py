"""What each variant of the CUDA attention kernel takes of a Hopper processor: `make kernel-report`.

Compiles for sm_90 and assembles, without a GPU; needs triton beside torch. Programs per processor follow from
registers (64 Ki) and shared memory (228 KiB, 1 KiB of each program the system's).
"""

import argparse
import itertools
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from orthrus_core.attention.spec import AttentionSpec
from orthrus_core.attention.triton_paged import KernelSizes, default_sizes, power_of_two

Row = dict[str, Any]
HEADS = {64: (9, 3), 80: (32, 8), 96: (32, 8), 128: (32, 8), 256: (16, 8)}  # H, Hkv by head size
REGISTERS, SHARED_BYTES = 65536, 228 * 1024
PAGE_SIZES = (16, 64)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--head-sizes", nargs="+", type=int, default=list(HEADS), choices=list(HEADS))
    parser.add_argument("--stages", nargs="+", type=int, help="instead of the table's")
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16"], choices=["bfloat16", "float32"])
    options = parser.parse_args()
    header_printed = False
    for row in reports(options.head_sizes, options.dtypes, options.stages):
        if not header_printed:
            print("| " + " | ".join(row) + " |\n|" + "---|" * len(row))
            header_printed = True
        print("| " + " | ".join(map(str, row.values())) + " |", flush=True)


def reports(head_sizes: list[int], dtypes: list[str], stages: list[int] | None) -> Iterator[Row]:
    """Yield a line per variant: plain, and as Gemma runs it, with softcap and window."""
    for head_size, dtype, page_size in itertools.product(head_sizes, dtypes, PAGE_SIZES):
        spec = spec_for(head_size, page_size=page_size, dtype=getattr(torch, dtype))
        sizes = default_sizes(spec)
        for num_stages, gemma in itertools.product(stages or [sizes.num_stages], (False, True)):
            yield report(spec, replace(sizes, num_stages=num_stages), gemma=gemma)


def spec_for(head_size: int, *, page_size: int, dtype: torch.dtype) -> AttentionSpec:
    """Return a model's attention by its head size."""
    return AttentionSpec(*HEADS[head_size], head_size, page_size, 16384, dtype, torch.device("cpu"))


def report(spec: AttentionSpec, sizes: KernelSizes, *, gemma: bool) -> Row:
    """Return what one variant takes; gemma: with a softcap and a window."""
    compiled = compile_variant(spec, sizes, gemma=gemma)
    used = assemble(compiled.asm["ptx"])
    threads, shared = 32 * sizes.num_warps, compiled.metadata.shared
    by_registers = REGISTERS // (used["registers"] * threads)
    return {
        "head size": spec.head_dim,
        "dtype": str(spec.dtype)[6:],
        "page": spec.page_size,
        "variant": "softcap, window" if gemma else "plain",
        "queries x cells": f"{sizes.queries} x {sizes.tile_cells}",
        "warps": sizes.num_warps,
        "stages": sizes.num_stages,
        "registers": used["registers"],
        "spilled bytes": used["spilled"],
        "instruction": next((i for i in ("wgmma", "mma.sync") if i in compiled.asm["ptx"]), "fma"),
        "shared KiB": round(shared / 1024, 1),
        "programs per processor": min(by_registers, SHARED_BYTES // (shared + 1024)),
    }


def compile_variant(spec: AttentionSpec, sizes: KernelSizes, *, gemma: bool) -> Any:
    """Return the attention kernel of one variant."""
    from orthrus_core.attention.triton_kernels import attend_tiles

    number = "*bf16" if spec.dtype == torch.bfloat16 else "*fp32"
    types = dict.fromkeys(("q", "keys", "values", "result"), number)
    types |= dict.fromkeys(("slots", "limits", "positions", "page_tables"), "*i64")
    types |= {"plan": "*i32", "parts": "*fp32", "lses": "*fp32", "scaling": "fp32", "cap": "fp32"}
    types |= dict.fromkeys(("q_row", "q_head", "tables_row", "num_rows"), "i32")
    constants = {
        "HEADS": spec.num_kv_heads,
        "REPEATS": spec.repeats,
        "DIM": spec.head_dim,
        "WIDTH": power_of_two(spec.head_dim),
        "QUERIES": sizes.queries,
        "TILE_CELLS": sizes.tile_cells,
        "SPLIT": sizes.split_length,
        "PAGE_SIZE": spec.page_size,
        "WINDOW": 4096 if gemma else 0,
        "CAPPED": gemma,
        "STAGES": sizes.num_stages,
        "PROGRAMS": 264,
    }
    aligned = [name for name in types if types[name][0] == "*" or name in ("q_row", "q_head")]
    options = {"num_warps": sizes.num_warps, "enable_fp_fusion": False}
    return compile_for_hopper(attend_tiles, types, constants, aligned=aligned, **options)


def compile_for_hopper(
    kernel: Any,
    types: dict[str, str],
    constants: dict[str, Any],
    *,
    aligned: Iterable[str] = (),
    **options: Any,
) -> Any:
    """Return a kernel that triton compiled for sm_90.

    Args:
        kernel: triton's function.
        types: of its arguments, by name.
        constants: the other arguments.
        aligned: arguments that are multiples of 16.
        options: of the compiler.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names, types = kernel.arg_names, types | dict.fromkeys(constants, "constexpr")
    source = ASTSource(
        kernel,
        signature={name: types[name] for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


def assemble(ptx: str) -> dict[str, int]:
    """Return the registers of a thread and the bytes that it spills, as ptxas counts them."""
    from triton.backends.nvidia.compiler import get_ptxas

    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory) / "kernel.ptx"
        source.write_text(ptx)
        command = [get_ptxas(90).path, "-v", "--fmad=false", "--gpu-name=sm_90a", str(source)]
        said = subprocess.run(
            [*command, "-o", f"{source}.cubin"], capture_output=True, text=True, check=True
        ).stderr
    registers = max(map(int, re.findall(r"Used (\d+) registers", said)))
    return {"registers": registers, "spilled": max(map(int, re.findall(r"(\d+) bytes spill stores", said)))}


if __name__ == "__main__":
    main()
