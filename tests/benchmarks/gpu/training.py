"""How long a training step of a head takes, and which share of the device's matrix rate it reaches."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch

from orthrus_core.evaluation.random_model import random_model
from orthrus_core.models.cost import ModelShape
from tests.benchmarks.gpu.steps import seconds_of
from tests.benchmarks.gpu.training_load import TrainingLoad, TrainingStep

Row = dict[str, Any]
# Packed rows per step, and whether layers are computed again; every case takes a minute or two to compile.
CASES = ((2, False), (1, False), (4, True))
LOADS = {  # N, A, K by shape; others as in the paper
    "tiny": (64, 6, 4),
    "demo": (320, 32, 8),
}
PUBLISHED_LOAD = (2048, 256, 32)
MIN_RATE_SHARE = 0.35
DENSE_BF16_RATES = {"H200": 989e12, "H100": 989e12, "A100": 312e12}  # FLOP/s of the data sheets
LOSS_CHUNK_MIB = 4096


def matmul_flops_per_s(device: torch.device, dtype: torch.dtype) -> float:
    """Return the rate of a large product of square matrices, the most that any step can reach."""
    n = 8192 if device.type == "cuda" else 1024
    left, right = torch.randn(2, n, n, device=device).to(dtype)
    out = torch.empty_like(left)
    return 2 * n**3 / seconds_of(lambda: torch.mm(left, right, out=out), device, repeats=10)


def dense_bf16_rate(device: torch.device) -> float | None:
    """Return the data sheet's rate of this device, None for an unknown one."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((rate for part, rate in DENSE_BF16_RATES.items() if part in name), None)


def time_training(
    name: str,
    shape: ModelShape,
    *,
    device: torch.device,
    dtype: torch.dtype,
    compiled: bool,
    cases: Sequence[tuple[int, bool]] = CASES,
    repeats: int = 10,
) -> Iterator[Row]:
    """Time whole steps: the backbone in `dtype`, the head's weights in FP32, AdamW.

    Args:
        name: of the shape, decides the load.
        cases: packed rows per step, and whether layers are computed again in the backward.
    """
    sequence_len, anchors, block_size = LOADS.get(name, PUBLISHED_LOAD)
    matmul, rate = matmul_flops_per_s(device, dtype), dense_bf16_rate(device)
    yield {"matmul_tflops": matmul / 1e12, "data_sheet_tflops": None if rate is None else rate / 1e12}
    model = random_model(shape, device=device, dtype=dtype, max_context=sequence_len + block_size)
    precision: Literal["bfloat16", "float32"] = "float32" if dtype == torch.float32 else "bfloat16"
    best = 0.0
    for sequences, again in cases:
        torch.compiler.reset()  # torch keeps so many programs of a function and no more
        load = TrainingLoad(sequences, sequence_len, anchors, block_size)
        options = {"checkpoint_layers": again, "loss_chunk_mib": LOSS_CHUNK_MIB}
        step = TrainingStep(model, load, precision=precision, compiled=compiled, **options)
        row: Row = {"sequences": sequences, "layers": "computed again" if again else "kept"}
        row |= _measure(step, device, matmul, rate, repeats)
        best = max(best, row.get("data_sheet_share") or 0.0)
        yield row
    if rate is not None:
        yield {"best data_sheet_share": best, "to reach": MIN_RATE_SHARE, "passed": best >= MIN_RATE_SHARE}


def _measure(
    step: TrainingStep, device: torch.device, matmul: float, rate: float | None, repeats: int
) -> Row:
    """Return times, memory and shares of one kind of step; a line that says so where it does not fit."""
    is_cuda = device.type == "cuda"
    if is_cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device) if is_cuda else 0
    try:
        step_s = seconds_of(step.run, device, repeats=repeats)
    except torch.OutOfMemoryError:
        return {"result": "does not fit"}
    flops_per_s = step.flops.total / step_s
    peak = torch.cuda.max_memory_allocated(device) if is_cuda else None
    return {
        "step_ms": step_s * 1e3,
        "tokens_per_s": step.size.tokens / step_s,
        "slots_per_s": step.size.trained_slots / step_s,
        "step_tflop": step.flops.total / 1e12,
        "achieved_tflops": flops_per_s / 1e12,
        "matmul_share": flops_per_s / matmul,
        "data_sheet_share": None if rate is None else flops_per_s / rate,
        "peak_gib": None if peak is None else peak / 2**30,
        "kib_per_slot": None if peak is None else (peak - before) / 2**10 / step.size.trained_slots,
    }
