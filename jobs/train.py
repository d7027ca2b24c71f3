"""Train a backbone or a diffusion head: `python jobs/train.py --config FILE`.

Exit codes: 0 done, 2 a mistake in the config or on the command line (one line on stderr), 1 anything else.
"""

import os
import sys

from pipelines.command import job_parser, run_job_command

# Training allocates the same large tensors at every step. With these limits glibc keeps the pages instead of
# returning them and faulting them in again (measured: 1.01 -> 0.69 s per step). Read at process start only.
MALLOC_LIMITS = {"MALLOC_MMAP_THRESHOLD_": str(1 << 32), "MALLOC_TRIM_THRESHOLD_": str(1 << 32)}


def keep_freed_memory() -> None:
    """Start this program again with the allocator's limits set, unless the caller has set them."""
    if sys.platform == "linux" and not any(name in os.environ for name in MALLOC_LIMITS):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | MALLOC_LIMITS)


def main(arguments: list[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    options = job_parser(
        "Train a backbone or a diffusion head.", configs="configs/train", example="loop.max_tokens=1000000"
    ).parse_args(arguments)
    return run_job_command(lambda: _run(options.config, options.set))


def _run(path: str, overrides: list[str]) -> int:
    from pipelines.train.config import load_train_config
    from pipelines.train.job import train

    config = load_train_config(path, overrides)
    progress = train(config)
    print(f"trained {config.output.path}: {progress.tokens} tokens in {progress.seconds:.0f} s")
    return 0


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
