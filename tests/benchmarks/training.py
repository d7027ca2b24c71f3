"""What a training step of the demo's head costs on this CPU: `make bench-train`.

Prints, for some blocks and precisions, the operations of a step (formula: orthrus_core/training/cost.py), the
rate it reaches beside that of a large matrix product on the same threads, and the most bytes of tensors alive
at once, per trained slot. Weights and text are random, which changes none of these. Run it on an otherwise
idle machine. No test; about a minute on one core. On a GPU:
`python -m tests.benchmarks.gpu --shape 1.7b --sections train`.
"""

import argparse
import time

import torch

from orthrus_core.evaluation.random_model import random_model
from tests.benchmarks.gpu.shapes import model_shape
from tests.benchmarks.gpu.training import matmul_flops_per_s
from tests.benchmarks.gpu.training_load import TrainingLoad, TrainingStep, flops_by_part
from tests.live_bytes import LiveBytes

CPU = torch.device("cpu")
CASES = [  # precision, K, options of the head
    ("bfloat16", 8, {}),
    ("bfloat16", 16, {}),
    ("bfloat16", 8, {"checkpoint_layers": True}),
    ("bfloat16", 8, {"loss": "cross_entropy"}),
    ("float32", 8, {}),
]
COLUMNS = "precision K options GFLOP ms GFLOP/s share_of_matmul slots/s KiB/slot parts"


def main() -> None:
    """Measure all cases and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sequences", type=int, default=6, help="packed rows of 320 tokens")
    parser.add_argument("--anchors", type=int, default=32, help="blocks per packed row")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=8.0, help="time for each case")
    parser.add_argument("--compiled", action="store_true", help="as train configs with compile: true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rates = {name: matmul_flops_per_s(CPU, getattr(torch, name)) for name in ("bfloat16", "float32")}
    print("matrix product:", ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in rates.items()))
    print("| " + " | ".join(COLUMNS.split()) + " |\n" + "|---" * len(COLUMNS.split()) + "|")
    for precision, block_size, fields in CASES:
        load = TrainingLoad(options.sequences, 320, options.anchors, block_size)
        cells = measure(load, precision, fields, rates[precision], options)
        print("| " + " | ".join(cells) + " |", flush=True)


def measure(
    load: TrainingLoad, precision: str, fields: dict, matmul: float, options: argparse.Namespace
) -> list[str]:
    """The cells of one line."""
    shape = model_shape("demo", dtype=torch.float32)
    model = random_model(shape, device=CPU, dtype=torch.float32, max_context=512)
    step = TrainingStep(model, load, precision=precision, compiled=options.compiled, **fields)
    for _ in range(2):
        step.run()
    times = []
    while sum(times) < options.seconds:
        started_at = time.perf_counter()
        step.run()
        times.append(time.perf_counter() - started_at)
    with LiveBytes() as live:
        TrainingStep(model, load, precision=precision, **fields).loss_and_backward()
    step_s = min(times)  # the others shared the core with something
    parts = " ".join(f"{name} {share:.0%}" for name, share in flops_by_part(step.flops).items())
    return [
        precision,
        str(load.block_size),
        " ".join(f"{name}={value}" for name, value in fields.items()) or "-",
        f"{step.flops.total / 1e9:.1f}",
        f"{step_s * 1e3:.0f}",
        f"{step.flops.total / step_s / 1e9:.1f}",
        f"{step.flops.total / step_s / matmul:.0%}",
        f"{step.size.trained_slots / step_s:.0f}",
        f"{live.peak / 2**10 / step.size.trained_slots:.0f}",
        parts,
    ]


if __name__ == "__main__":
    main()
