"""Measure a CUDA device: `python -m tests.benchmarks.gpu --shape 8b --sections step,decode --budget-s 500`.

Parity, exactness, step times; tried on a CPU by a tiny shape. Needs orthrus_core with torch, transformers,
triton and pydantic, not Ray. Exit codes: 0 all targets reached, 1 not all, 2 a mistake on the command line.
"""

import argparse
import logging
import sys


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark, print its tables; returns the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    from pydantic import ValidationError  # late: importing the core takes seconds

    from orthrus_core.errors import ConfigError
    from tests.benchmarks.gpu.sections import GpuBenchmark, run_benchmark

    failed = 0
    try:
        benchmark = GpuBenchmark.model_validate(vars(options))
        for section in run_benchmark(benchmark):
            print(section.markdown(), flush=True)
            failed += section.num_failed
    except (ConfigError, ValidationError) as error:
        print(f"config error: {error}", file=sys.stderr)
        return 2
    print(f"{failed} lines failed; tables in {benchmark.out}")
    return int(failed > 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Parity, exactness and step times on a CUDA device.")
    lists = {"type": lambda text: text.split(","), "default": argparse.SUPPRESS, "metavar": "A,B"}
    plain = {"default": argparse.SUPPRESS}
    parser.add_argument("--device", **plain, help="cuda, or cpu to try the benchmark itself")
    parser.add_argument("--shape", **plain, help="tiny, demo, 1.7b or 8b (default); weights are random")
    parser.add_argument("--layers", **plain, help="fewer layers than the shape has")
    parser.add_argument("--dtypes", **lists, help="of bf16,fp16,fp32; times use the first")
    parser.add_argument(
        "--sections",
        **lists,
        help="of parity,exactness,bandwidth,step,decode (these), train, kernels, versions, products, ladder, "
        "trajectories",
    )
    parser.add_argument("--batches", **lists, help="sequences of decode, default 1,8,32,128")
    parser.add_argument("--contexts", **lists, help="cells per sequence, default 512,4096,16384")
    parser.add_argument("--budget-s", **plain, help="start no further line after that, default 500")
    parser.add_argument("--out", **plain, help="directory of the tables, default outputs/bench-gpu")
    parser.add_argument("--compiled", action=argparse.BooleanOptionalAction, **plain)
    return parser


if __name__ == "__main__":
    sys.exit(main())
