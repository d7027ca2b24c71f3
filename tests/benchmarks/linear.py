"""Linear layers of an engine, torch's against the kernel's: `python -m tests.benchmarks.linear --model DIR`.

First the model's own weights, shape by shape: all layers one after the other, so that weights come from
memory as in a forward, microseconds a layer. Then plain AR decoding through the whole engine. Both ways take
turns in one process and the best of several rounds counts. No test; on an idle machine.
"""

import argparse
import functools
import time
from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from torch import nn

from orthrus_core import Engine, EngineConfig, SamplingParams, load_model
from orthrus_core.linear.backend import LinearBackend, PlainLinear
from orthrus_core.linear.native import NativeLinear

ROWS = (1, 8, 32, 64, 256, 512)
MAX_LOGITS = 2**24  # rows times columns: more of an output head's are never computed at once
ROUNDS = 8
BUDGETS = (8, 16, 32, 64)
PROMPT_TOKENS, NEW_TOKENS = 32, 48


def main() -> None:
    """Print both tables for each dtype and number of threads."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="checkpoint directory, with or without a head")
    parser.add_argument("--dtype", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--sequences", nargs="*", type=int, default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--no-shapes", action="store_true", help="the engine only")
    options = parser.parse_args()
    for dtype in options.dtype:
        model = load_model(options.model, dtype=getattr(torch, dtype), device="cpu", needs_head=False)
        for threads in options.threads:
            torch.set_num_threads(threads)
            print(f"\ndtype={dtype} threads={threads}", flush=True)
            if not options.no_shapes:
                print_shapes(model, options.rounds)
            for sequences in options.sequences:
                print_engine(model, sequences, options.rounds)


@torch.inference_mode()
def print_shapes(model: nn.Module, rounds: int) -> None:
    """Print a line per shape: microseconds of torch's and of the kernel's product by number of rows."""
    layers: dict[tuple[int, int], list[nn.Linear]] = defaultdict(list)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and "_diff" not in name:
            layers[module.out_features, module.in_features].append(module)
    backends: tuple[LinearBackend, ...] = (PlainLinear(), NativeLinear(model.dtype))  # type: ignore[arg-type]
    for (N, K), same in layers.items():
        cells = []
        for M in ROWS:
            if M * N > MAX_LOGITS:
                continue
            rows = torch.randn(M, K).to(same[0].weight.dtype)
            ways = [functools.partial(multiply, backend, rows, same) for backend in backends]
            plain, native = best_seconds(ways, rounds)
            read = N * K * rows.element_size() * len(same) / native / 1e9
            us = 1e6 / len(same)
            cells.append(f"{M}: {plain * us:.0f}/{native * us:.0f} {plain / native:.2f}x {read:.1f} GB/s")
        print(f"  N={N} K={K} layers={len(same)}  " + "  ".join(cells), flush=True)


def multiply(backend: LinearBackend, rows: torch.Tensor, layers: Sequence[nn.Linear]) -> None:
    for layer in layers:
        backend.multiply(rows, layer.weight, layer.bias)


def print_engine(model: nn.Module, sequences: int, rounds: int) -> None:
    """Print AR tokens per second of both ways."""
    config = EngineConfig(
        mode="autoregressive",
        max_sequences=sequences,
        max_context=256,
        budgets=BUDGETS,
        self_check=False,
        compile="off",
    )
    generator = torch.Generator().manual_seed(0)
    V = model.config.vocab_size  # type: ignore[union-attr, operator]
    prompts = torch.randint(V - 1, (sequences, PROMPT_TOKENS), generator=generator).tolist()  # type: ignore
    params = SamplingParams(max_new_tokens=NEW_TOKENS, ignore_eos=True)
    engines = [Engine(model, config.model_copy(update={"linear": name})) for name in ("plain", "native")]

    def decode(engine: Engine) -> None:
        engine.forget_prompts()
        engine.generate(prompts, params)

    seconds = best_seconds([functools.partial(decode, engine) for engine in engines], rounds)
    plain, native = (sequences * NEW_TOKENS / taken for taken in seconds)
    print(f"  AR sequences={sequences} plain={plain:.1f} native={native:.1f} tokens/s {native / plain:.2f}x")


def best_seconds(ways: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Return the least seconds of each, which take turns."""
    best = [float("inf")] * len(ways)
    for _ in range(rounds):
        for place, way in enumerate(ways):
            started_at = time.perf_counter()
            way()
            best[place] = min(best[place], time.perf_counter() - started_at)
    return best


if __name__ == "__main__":
    main()
