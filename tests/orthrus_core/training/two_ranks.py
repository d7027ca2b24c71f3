"""Two processes that train one small head over gloo, for test_parallel.py: `python -m ... RANK DIRECTORY`."""

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.nn import Parameter

from orthrus_core.errors import OrthrusError
from orthrus_core.training.backbone import BackboneObjective, new_backbone
from orthrus_core.training.config import BackboneConfig, HeadConfig, LoopConfig, OptimizerConfig
from orthrus_core.training.head import HeadObjective
from orthrus_core.training.losses import LossSum
from orthrus_core.training.muon import Muon
from orthrus_core.training.packing import Document, PackedBatch, collate
from orthrus_core.training.parallel import Parallel
from orthrus_core.training.reduction import GradientSums
from orthrus_core.training.sharding import local_part
from orthrus_core.training.trainer import Trainer, TrainingDiverged
from tests.small_models import small_orthrus

BACKBONE = BackboneConfig(
    hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4, num_key_value_heads=2, head_dim=8
)
WORLD_SIZE = 2
MODES = ("ddp", "fsdp2")
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
    completion = list(range(first, first + 4 + number % 5))
    return collate([[Document([first, 3], completion)], [Document([9], [4, first, 2])]], sequence_len=12)


def batches_of(rank: int, world_size: int) -> list[PackedBatch]:
    """A process's share: of each step, `ACCUMULATE` batches in a row."""
    return [batch(n) for n in range(NUM_BATCHES) if (n // ACCUMULATE) % world_size == rank]


class Head(HeadObjective):
    """A head objective whose loss is NaN at one call, if asked."""

    nan_at: int | None = None
    num_calls = 0

    def loss(self, batch: PackedBatch) -> LossSum:
        """The head's loss."""
        self.num_calls += 1
        loss = super().loss(batch)
        return LossSum(loss.total * float("nan"), loss.weight) if self.num_calls == self.nan_at else loss


def trainer(kind: str, parallel: Parallel | None, *, accumulate: int = ACCUMULATE, seed: int = 0) -> Trainer:
    """A run over the small head; the weights depend on `seed`."""
    objective = Head(small_orthrus(noise=0.05, seed=seed), HEAD, precision="float32", seed=0)
    return Trainer(
        objective,
        optimizer=OPTIMIZERS[kind],
        loop=LoopConfig(max_tokens=300, accumulate=accumulate, precision="float32", save_every_s=1e9),
        held_out=[batch(50)],
        parallel=parallel,
        save=lambda trainer: None,
    )


def scenarios(rank: int, directory: Path) -> dict[str, Any]:
    """What this rank saw, by scenario."""
    results: dict[str, Any] = {"muon on shards": sharded_muon_case(init_device_mesh("cpu", (WORLD_SIZE,)))}
    mine = batches_of(rank, WORLD_SIZE)
    for mode in MODES:
        for kind in OPTIMIZERS:
            case = f"{mode} {kind}"
            for attempt in range(2):
                run = trainer(kind, Parallel(mode), seed=rank)  # rank 1 begins with other weights
                run.run(iter(mine))
                results[f"{case} {attempt}"] = run.state_dict()
            results[f"{case} whole"] = run.parallel.whole_state(run._objective.module)
            results[f"{case} half"] = half = first_half(kind, Parallel(mode), mine)
            states = {
                "resumed": Parallel(mode).share(half),
                "from one": torch.load(directory / f"half-{kind}.pt"),
            }
            for name, state in states.items():
                run = trainer(kind, Parallel(mode))
                run.load_state_dict(state)
                run.run(iter(mine[4:]))
                results[f"{case} {name}"] = run.state_dict()
            results[f"{case} diverged"] = diverged(kind, Parallel(mode), rank)
        results[f"{mode} bfloat16"] = held_in_bfloat16(Parallel(mode), mine)
        results[f"{mode} backbone"] = whole_backbone(Parallel(mode), mine)
    results["sums"] = sums_of_gradients(rank)
    results["no batch"] = without_batches(mine if rank == 0 else [])
    weight = run._objective.module.model.layers[1].mlp.up_proj.weight
    results["fsdp2 share of a layer"] = local_part(weight).numel() / weight.numel()
    return results


def first_half(kind: str, parallel: Parallel, batches: list[PackedBatch]) -> dict[str, Any]:
    """The state after two of four steps."""
    run = trainer(kind, parallel)
    run.run(iter(batches[:4]))
    state = run.state_dict()
    return state | {"progress": state["progress"] | {"finished": False}} if state else {}


def diverged(kind: str, parallel: Parallel, rank: int) -> dict[str, Any]:
    """A run whose loss is NaN on rank 1 in its second step, second batch; its state before and after."""
    run = trainer(kind, parallel)
    run._objective.nan_at = 4 if rank == 1 else None
    run._loop = run._loop.model_copy(update={"save_every_steps": 1})
    saved: dict[str, Any] = {}
    run._save = lambda trainer: saved.update(trainer.state_dict())
    try:
        run.run(iter(batches_of(rank, WORLD_SIZE)))
    except TrainingDiverged as error:
        seen = {"step": error.step, "ids": error.batch.input_ids, "is_here": error.is_here}
        return seen | {"saved": saved, "now": run.state_dict()}
    return {}


def held_in_bfloat16(
    parallel: Parallel | None, batches: list[PackedBatch], accumulate: int = ACCUMULATE
) -> dict[str, Any]:
    """The head's weights after BF16 arithmetic over a backbone held in BF16."""
    objective = HeadObjective(small_orthrus(noise=0.05), HEAD, precision="bfloat16", seed=0)
    loop = LoopConfig(max_tokens=300, accumulate=accumulate, frozen_precision="bfloat16")
    return before_and_after(objective, loop, parallel, batches)


def whole_backbone(
    parallel: Parallel | None, batches: list[PackedBatch], accumulate: int = ACCUMULATE
) -> dict[str, Any]:
    """A backbone trained from scratch, its embeddings tied to the output head."""
    model = new_backbone(BACKBONE, vocab_size=97, eos_token_id=2, seed=0)
    objective = BackboneObjective(model, BACKBONE, precision="float32")
    loop = LoopConfig(max_tokens=300, accumulate=accumulate, precision="float32")
    return before_and_after(objective, loop, parallel, batches)


def before_and_after(
    objective: HeadObjective | BackboneObjective,
    loop: LoopConfig,
    parallel: Parallel | None,
    batches: list[PackedBatch],
) -> dict[str, Any]:
    """The state after a run by AdamW, and in it, as "before", the one that it began with."""
    run = Trainer(
        objective,
        optimizer=OPTIMIZERS["adamw"],
        loop=loop,
        held_out=[batch(50)],
        parallel=parallel,
        save=lambda trainer: None,
    )
    before = run.state_dict()
    run.run(iter(batches))
    return run.state_dict() | {"before": before}


def sums_of_gradients(rank: int) -> list[Tensor]:
    """Gradients summed in three buckets after two backwards; each rank leaves one parameter out."""
    a, b, c = parameters = [Parameter(torch.ones(2)) for _ in range(3)]
    sums = GradientSums(parameters, bucket_bytes=1)
    for factor in (1.0, 10.0):
        if factor == 10.0:  # the last backward of the step
            sums.start()
        used = a if rank == 0 else c
        (factor * (rank + 1) * (used + b)).sum().backward()
    sums.finish()
    return [parameter.grad for parameter in parameters]


def without_batches(batches: list[PackedBatch]) -> str:
    """The error of a run in which a rank has nothing."""
    try:
        trainer("adamw", Parallel("ddp")).run(iter(batches))
    except OrthrusError as error:
        return str(error)
    return ""


def sharded_muon_case(mesh: Any) -> list[Tensor]:
    """Three steps of Muon from known gradients, over rows sharded on a mesh, or whole (None)."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(6, 4), (6, 4), (3, 8)]  # 3 rows over 2 processes: an uneven split

    def draw(shape: tuple[int, int]) -> Tensor:
        whole = torch.randn(shape, generator=generator)
        return whole if mesh is None else distribute_tensor(whole, mesh, [Shard(0)])

    parameters = [Parameter(draw(shape)) for shape in shapes]
    optimizer = Muon(parameters, lr=0.1, weight_decay=0.1)
    for _ in range(3):
        for parameter in parameters:
            parameter.grad = draw(tuple(parameter.shape))
        optimizer.step()
    return [p.detach() if mesh is None else p.detach().full_tensor() for p in parameters]


def main(rank: int, directory: Path) -> None:
    """Run the scenarios and leave what was seen in a file."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{directory}/store",
        rank=rank,
        world_size=WORLD_SIZE,
        timeout=timedelta(seconds=120),
    )
    torch.save(scenarios(rank, directory), directory / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
