"""Linear layers of an engine, torch's against the kernel's: `python -m tests.benchmarks.linear --model DIR`.

First the model's own weights, shape by shape: all layers one after the other, so that weights come from
memory as in a forward, microseconds a layer. Then plain AR decoding through the whole engine. With --weights
the kernel reads these too, each made of the model's own. All ways take turns in one process and the best of
several rounds counts, in seconds of the clock, or of the processor (--cpu: one thread on a busy machine).
No test.
"""

import argparse
import functools
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from orthrus_core import Engine, EngineConfig, SamplingParams, load_model
from orthrus_core.linear.backend import BackedLinear, PlainLinear, backed
from orthrus_core.linear.native import NativeLinear
from orthrus_core.linear.quantised import BYTE_DTYPES, QuantisedLinear

ROWS = (1, 8, 32, 64, 256, 512)
MAX_LOGITS = 2**24  # rows times columns: more of an output head's are never computed at once
ROUNDS = 8
BUDGETS = (8, 16, 32, 64)
PROMPT_TOKENS, NEW_TOKENS = 32, 48

Clock = Callable[[Sequence[Callable[[], object]]], list[float]]


def main() -> None:
    """Print both tables for each dtype and number of threads."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="checkpoint directory, with or without a head")
    parser.add_argument("--dtype", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--sequences", nargs="*", type=int, default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--weights", nargs="*", default=[], choices=[*BYTE_DTYPES])
    parser.add_argument("--rows", nargs="+", type=int, default=ROWS)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--no-shapes", action="store_true", help="the engine only")
    options = parser.parse_args()
    clock = time.process_time if options.cpu else time.perf_counter
    best_seconds: Clock = functools.partial(least_seconds, rounds=options.rounds, clock=clock)
    for dtype in options.dtype:
        models = {
            weights: load_model(
                options.model,
                dtype=getattr(torch, dtype),
                needs_head=False,
                weights=weights,
                quantise_output_head=weights != "auto",
            )
            for weights in ("auto", *options.weights)
        }
        for threads in options.threads:
            torch.set_num_threads(threads)
            print(f"\ndtype={dtype} threads={threads}", flush=True)
            if not options.no_shapes:
                print_shapes(models["auto"], options.weights, options.rows, best_seconds)
            for sequences in options.sequences:
                print_engines(models, sequences, best_seconds)


@torch.inference_mode()
def print_shapes(
    model: nn.Module, weights: Sequence[str], row_counts: Sequence[int], best_seconds: Clock
) -> None:
    """Print a line per shape and number of rows: microseconds of torch's product and of the kernel's."""
    layers: dict[tuple[int, int], list[nn.Linear]] = defaultdict(list)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and "_diff" not in name:
            layers[module.out_features, module.in_features].append(module)
    native = NativeLinear(model.dtype)  # type: ignore[arg-type]
    for (N, K), same in layers.items():
        of_bytes = {
            name: [QuantisedLinear.of(layer, BYTE_DTYPES[name]) for layer in same] for name in weights
        }
        ways = {"torch": [backed(layer, PlainLinear()) for layer in same]}
        ways |= {
            name: [backed(layer, native) for layer in some]
            for name, some in {"native": same, **of_bytes}.items()
        }
        for M in row_counts:
            if M * N > MAX_LOGITS:
                continue
            rows = torch.randn(M, K).to(same[0].weight.dtype)
            seconds = best_seconds([functools.partial(multiply, rows, some) for some in ways.values()])
            taken = dict(zip(ways, seconds, strict=True))
            cells = [
                f"{name} {one * 1e6 / len(same):.0f} us {taken['native'] / one:.2f}x"
                for name, one in taken.items()
            ]
            print(f"  N={N} K={K} layers={len(same)} rows={M}  " + "  ".join(cells), flush=True)


def multiply(rows: torch.Tensor, layers: Sequence[BackedLinear]) -> None:
    for layer in layers:
        layer(rows)


def print_engines(models: Mapping[str, nn.Module], sequences: int, best_seconds: Clock) -> None:
    """Print AR tokens per second of torch, the kernel, and the kernel on weights of bytes."""
    config = EngineConfig(
        mode="autoregressive",
        max_sequences=sequences,
        max_context=256,
        budgets=BUDGETS,
        self_check=False,
        compile="off",
    )
    generator = torch.Generator().manual_seed(0)
    V = models["auto"].config.vocab_size  # type: ignore[union-attr, operator]
    prompts = torch.randint(V - 1, (sequences, PROMPT_TOKENS), generator=generator).tolist()  # type: ignore
    params = SamplingParams(max_new_tokens=NEW_TOKENS, ignore_eos=True)
    engines = {"torch": Engine(models["auto"], config.model_copy(update={"linear": "plain"}))}
    engines |= {
        name.replace("auto", "native"): Engine(model, config.model_copy(update={"linear": "native"}))
        for name, model in models.items()
    }

    def decode(engine: Engine) -> None:
        engine.forget_prompts()
        engine.generate(prompts, params)

    seconds = best_seconds([functools.partial(decode, engine) for engine in engines.values()])
    speeds = {name: sequences * NEW_TOKENS / one for name, one in zip(engines, seconds, strict=True)}
    cells = [f"{name} {speed:.1f} tokens/s {speed / speeds['native']:.2f}x" for name, speed in speeds.items()]
    print(f"  AR sequences={sequences}  " + "  ".join(cells), flush=True)


def least_seconds(
    ways: Sequence[Callable[[], object]], *, rounds: int, clock: Callable[[], float]
) -> list[float]:
    """Return the least seconds of each, which take turns."""
    best = [float("inf")] * len(ways)
    for _ in range(rounds):
        for place, way in enumerate(ways):
            started_at = clock()
            way()
            best[place] = min(best[place], clock() - started_at)
    return best


if __name__ == "__main__":
    main()
