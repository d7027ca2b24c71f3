"""Two processes that train one small head over gloo, for tests; each scenario's results go to a file."""

import itertools
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from orthrus_core.training.config import HeadConfig, LoopConfig, OptimizerConfig
from orthrus_core.training.head import HeadObjective
from orthrus_core.training.packing import Document, PackedBatch, collate
from orthrus_core.training.parallel import Parallel
from orthrus_core.training.trainer import Trainer, TrainingDiverged
from tests.small_models import small_orthrus

WORLD_SIZE = 2
# more anchors than a row has: which tokens are anchors is then no matter of chance
HEAD = HeadConfig(block_size=3, anchors_per_sequence=16)
OPTIMIZERS = {
    "muon": OptimizerConfig(kind="muon", muon_lr=4e-3, adamw_lr=1e-3),
    "adamw": OptimizerConfig(kind="adamw", adamw_lr=1e-3, decay="cosine", final_lr=0.1, warmup=0.05),
}
NUM_STEPS, ACCUMULATE = 4, 2
NUM_BATCHES = NUM_STEPS * ACCUMULATE * WORLD_SIZE - 1  # rank 1 is one short in the last step


def batch(number: int) -> PackedBatch:
    """Two packed rows of different lengths, so that batches differ in weight."""
    first = 5 + number * 7 % 60
    rows = [
        [Document([first, 3], list(range(first, first + 4 + number % 5)))],
        [Document([9], [4, first, 2])],
    ]
    return collate(rows, sequence_len=12)


def batches_of(
    rank: int, world_size: int, *, start: int = 0, accumulate: int = ACCUMULATE
) -> list[PackedBatch]:
    """Every process's share: of each step, `accumulate` batches in a row."""
    numbers = range(start, NUM_BATCHES)
    return [batch(n) for n in numbers if (n // accumulate) % world_size == rank]


class Head(HeadObjective):
    """A head objective whose loss is NaN in one step of one rank."""

    nan_at: int | None = None
    num_losses = 0

    def loss(self, batch: PackedBatch):
        self.num_losses += 1
        loss = super().loss(batch)
        return type(loss)(loss.total * float("nan"), loss.weight) if self.num_losses == self.nan_at else loss


def trainer(
    kind: str, parallel: Parallel | None, *, accumulate: int = ACCUMULATE, seed: int = 0, **options
) -> Trainer:
    objective = Head(small_orthrus(noise=0.05, seed=seed), HEAD, precision="float32", seed=0)
    loop = LoopConfig(max_tokens=300, accumulate=accumulate, precision="float32", save_every_s=1e9)
    return Trainer(
        objective,
        optimizer=OPTIMIZERS[kind],
        loop=loop,
        held_out=[batch(50)],
        parallel=parallel,
        **{"save": lambda trainer: None} | options,
    )


def scenarios(rank: int) -> dict[str, Any]:
    """What this rank saw: by mode and optimiser."""
    results: dict[str, Any] = {}
    for mode, kind in itertools.product(("ddp", "fsdp2"), OPTIMIZERS):
        for attempt in range(2):
            run = trainer(kind, Parallel(mode), seed=rank)  # rank 1 begins with other weights
            run.run(iter(batches_of(rank, WORLD_SIZE)))
            results[f"{mode} {kind} {attempt}"] = run.state_dict()
        results[f"{mode} {kind} whole"] = run.parallel.whole_state(run._objective.module)
        results[f"{mode} {kind} diverged"] = diverged(kind, Parallel(mode), rank)
    return results


def diverged(kind: str, parallel: Parallel, rank: int) -> dict[str, Any]:
    """A run whose loss is NaN on rank 1 in its second step, second micro-batch."""
    run = trainer(kind, parallel)
    run._objective.nan_at = 4 if rank == 1 else None
    after_first: dict[str, Any] = {}
    run._save = lambda trainer: after_first.update(trainer.state_dict())
    run._loop = run._loop.model_copy(update={"save_every_steps": 1})
    try:
        run.run(iter(batches_of(rank, WORLD_SIZE)))
    except TrainingDiverged as error:
        ids = error.batch.input_ids
        return {
            "step": error.step,
            "ids": ids,
            "here": error.is_here,
            "first": after_first,
            "now": run.state_dict(),
        }
    return {}


def main(rank: int, directory: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{directory}/store", rank=rank, world_size=WORLD_SIZE)
    torch.save(scenarios(rank), directory / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
