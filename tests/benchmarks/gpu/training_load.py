"""Training steps of a head on random text: how long they take against their count of operations."""

import dataclasses
import random
from dataclasses import dataclass
from typing import Literal

import torch

from orthrus_core.models.attention import DIFFUSION_SUFFIX
from orthrus_core.models.cost import ModelShape
from orthrus_core.models.model import OrthrusLM
from orthrus_core.training.anchors import sample_blocks
from orthrus_core.training.config import HeadConfig
from orthrus_core.training.cost import StepFlops, StepSize, step_flops
from orthrus_core.training.head import HeadObjective
from orthrus_core.training.masks import block_sight, text_sight
from orthrus_core.training.packing import Document, PackedBatch, collate

PROMPT_SHARE = 8  # one token in so many is a prompt's
DOCUMENTS_PER_ROW = 2


@dataclass(frozen=True)
class TrainingLoad:
    """What one step trains on.

    Attributes:
        sequences: packed rows. sequence_len: N, tokens of each. anchors: A, blocks of each.
        block_size: K.
    """

    sequences: int
    sequence_len: int
    anchors: int
    block_size: int


class TrainingStep:
    """A model, a batch of random text and an optimiser: what a trainer does over and over.

    Attributes:
        size: of the step; only pairs that the masks show count.
        flops: of loss and backward; the optimiser counts in seconds alone.
    """

    def __init__(
        self,
        model: OrthrusLM,
        load: TrainingLoad,
        *,
        precision: Literal["bfloat16", "float32"],
        compiled: bool = False,
        **options: object,
    ) -> None:
        """Prepare the steps.

        Args:
            model: its `*_diff` tensors become FP32 here, the others stay what they are.
            options: further fields of `HeadConfig`.
        """
        for name, parameter in model.named_parameters():
            if DIFFUSION_SUFFIX in name:
                parameter.data = parameter.data.float()
        fields = {"block_size": load.block_size, "anchors_per_sequence": load.anchors, **options}
        config = HeadConfig.model_validate(fields)
        self._objective = HeadObjective(model, config, precision=precision, seed=0, compiled=compiled)
        parameters = [parameter for _, parameter in self._objective.named_parameters()]
        is_cuda = model.device.type == "cuda"
        self._optimizer = torch.optim.AdamW(parameters, lr=1e-5, fused=is_cuda)
        self._batch = random_batch(load, vocab_size=model.config.vocab_size)
        self.size = step_size(self._batch, config)
        shape = ModelShape.from_config(model.config)
        self.flops: StepFlops = step_flops(shape, self.size, is_kl=config.loss == "forward_kl")

    def loss_and_backward(self) -> None:
        """Make the gradients of one batch."""
        loss = self._objective.loss(self._batch)
        (loss.total / loss.weight).backward()

    def run(self) -> None:
        """One whole step."""
        self.loss_and_backward()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)


def random_batch(load: TrainingLoad, *, vocab_size: int, seed: int = 0) -> PackedBatch:
    """Rows of two documents of random tokens, filled to the end."""
    chance = random.Random(seed)

    def document(length: int) -> Document:
        ids = chance.choices(range(vocab_size - 1), k=length)
        return Document(ids[: length // PROMPT_SHARE + 1], ids[length // PROMPT_SHARE + 1 :])

    first = load.sequence_len // DOCUMENTS_PER_ROW
    rows = [[document(first), document(load.sequence_len - first)] for _ in range(load.sequences)]
    return collate(rows, sequence_len=load.sequence_len)


def step_size(batch: PackedBatch, config: HeadConfig, *, seed: int = 0) -> StepSize:
    """Count a step on a batch for one draw of anchors; pairs that a mask hides do not count."""
    blocks = sample_blocks(
        batch,
        num_anchors=config.anchors_per_sequence,
        block_size=config.block_size,
        shorten_probability=config.shorten_probability,
        generator=torch.Generator().manual_seed(seed),
    )
    sight = block_sight(batch, blocks)
    return StepSize(
        tokens=batch.input_ids.numel(),
        slots=blocks.slot_idx.numel(),
        trained_slots=int(blocks.is_trained.sum()),
        text_pairs=int(text_sight(batch).num_visible()),
        slot_pairs=int(sight.num_visible()),
        own_pairs=int((sight.own_to - sight.own_from).sum()),
    )


def flops_by_part(flops: StepFlops) -> dict[str, float]:
    """Share of each part in a step's operations."""
    parts = dataclasses.asdict(flops)
    return {name: parts[name] / flops.total for name in ("ar_forward", "forward", "backward", "loss")}
