"""Where a training step's time goes: `python -m tests.benchmarks.training_step [--frozen bfloat16]`.

The shipped demo model's head on random documents, in the shape of configs/train/demo-head.yaml, on one core.
CPU time, so that other programs disturb little. Takes about 20 seconds, with --compile a minute more.
"""

import argparse
import itertools
import random
import time
from collections.abc import Callable
from typing import Any

import torch

from orthrus_core.models.loading import load_model
from orthrus_core.training.config import HeadConfig, LoopConfig, OptimizerConfig
from orthrus_core.training.head import HeadObjective
from orthrus_core.training.packing import Document, PackedBatch, packed_batches
from orthrus_core.training.trainer import Trainer

MODEL = "pipelines/demo/model"
WARM_UP_STEPS = 5


class Stopwatch:
    """CPU seconds by part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call, its time added to that of the part."""

        def run(*args: Any, **kwargs: Any) -> Any:
            start_s = time.process_time()
            try:
                return call(*args, **kwargs)
            finally:
                self.seconds[part] = self.seconds.get(part, 0.0) + time.process_time() - start_s

        return run


def measure(trainer: Trainer, objective: HeadObjective, num_steps: int) -> dict[str, float]:
    """Milliseconds per step by part, and tokens per CPU second."""
    batches = _batches(WARM_UP_STEPS + num_steps)
    for batch in batches[:WARM_UP_STEPS]:
        trainer._step([batch])
    watch = Stopwatch()
    objective.loss = watch.timed("forward_ms", objective.loss)  # type: ignore[method-assign]
    trainer._optimizer.step = watch.timed("update_ms", trainer._optimizer.step)  # type: ignore[method-assign]
    whole = watch.timed("step_ms", trainer._step)
    for batch in batches[WARM_UP_STEPS:]:
        whole([batch])
    figures = {part: 1000 * seconds / num_steps for part, seconds in watch.seconds.items()}
    figures["backward_ms"] = figures["step_ms"] - figures["forward_ms"] - figures["update_ms"]
    tokens = sum(batch.num_tokens for batch in batches[WARM_UP_STEPS:])
    return figures | {"tokens_per_cpu_s": tokens / watch.seconds["step_ms"]}


def _batches(number: int) -> list[PackedBatch]:
    """Random documents of 40 to 160 tokens, packed as in demo-head.yaml."""
    rng = random.Random(0)
    documents = (
        Document(rng.choices(range(200), k=20), rng.choices(range(200), k=rng.randrange(20, 140)))
        for _ in itertools.count()
    )
    return list(itertools.islice(packed_batches(documents, sequence_len=320, sequences_per_batch=6), number))


def main() -> None:
    """Print milliseconds of CPU time per step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--compile", action="store_true", help="compile the forward")
    parser.add_argument("--optimizer", choices=["muon", "adamw"], default="muon")
    parser.add_argument("--frozen", choices=["bfloat16", "float32"], default="float32")
    options = parser.parse_args()
    torch.set_num_threads(1)
    objective = HeadObjective(
        load_model(MODEL, dtype=torch.float32),
        HeadConfig(block_size=8, anchors_per_sequence=32),
        precision="bfloat16",
        seed=0,
        compiled=options.compile,
    )
    trainer = Trainer(
        objective,
        optimizer=OptimizerConfig(kind=options.optimizer, muon_lr=2e-2),
        loop=LoopConfig(max_tokens=10**9, frozen_precision=options.frozen),
        held_out=[],
        save=lambda trainer: None,
    )
    figures = measure(trainer, objective, options.steps)
    print(" ".join(f"{name}={value:.1f}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
