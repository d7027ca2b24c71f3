"""Training the diffusion head: its blocks learn what the frozen AR view says over the same tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from orthrus_core.models.attention import DIFFUSION_SUFFIX, Attend, View
from orthrus_core.models.model import OrthrusLM
from orthrus_core.training.acceptance import AcceptanceCounts
from orthrus_core.training.anchors import Blocks, block_ids, block_positions, sample_blocks, target_ids
from orthrus_core.training.attend import BlockAttend, LayerMasks, RecordingAttend
from orthrus_core.training.config import HeadConfig
from orthrus_core.training.losses import LossSum, distillation_loss
from orthrus_core.training.masks import block_diffusion_mask, causal_document_mask
from orthrus_core.training.packing import PackedBatch

EVALUATION_SEED = 0


@dataclass(frozen=True)
class TrainedSlots:
    """The R trained slots of a batch.

    Attributes:
        hidden: (R, D) diffusion view. teacher_hidden: (R, D) AR view at the teaching tokens.
        target_ids: (R,) int64, the tokens that follow in the text. weights: (R,) FP32.
    """

    hidden: Tensor
    teacher_hidden: Tensor
    target_ids: Tensor
    weights: Tensor


class HeadObjective:
    """Forward KL from the AR view to the diffusion view; only `*_diff` tensors get a gradient."""

    def __init__(
        self, model: OrthrusLM, config: HeadConfig, *, precision: str, seed: int, compiled: bool = False
    ) -> None:
        """Freeze the backbone and prepare to train the head of `model`.

        Args:
            precision: arithmetic of the linears, "bfloat16" or "float32".
            seed: draws the anchors.
        """
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(DIFFUSION_SUFFIX in name)
        assert model.config.mask_token_id is not None  # OrthrusLM refuses a config without one
        self._mask_token_id = model.config.mask_token_id
        self._model = model
        self._forward = torch.compile(model.model) if compiled else model.model
        self._config = config
        self._generator = torch.Generator().manual_seed(seed)
        self._autocast = torch.autocast(model.device.type, torch.bfloat16, enabled=precision == "bfloat16")

    @property
    def module(self) -> OrthrusLM:
        """The model, with its frozen backbone."""
        return self._model

    def state_dict(self) -> dict[str, Any]:
        """The state of the generator that draws the anchors."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on drawing where `state_dict` was taken."""
        self._generator.set_state(state["generator"])

    def named_parameters(self) -> list[tuple[str, Parameter]]:
        """The parameters of the head."""
        return [(name, p) for name, p in self._model.named_parameters() if p.requires_grad]

    def loss(self, batch: PackedBatch) -> LossSum:
        """Loss over newly drawn blocks."""
        batch = batch.to(self._model.device)
        blocks = self._sample(batch, self._generator, self._config.shorten_probability)
        return self._loss(self._run_views(batch, blocks))

    @torch.no_grad()
    def evaluate(self, batches: Sequence[PackedBatch]) -> dict[str, float]:
        """Loss and acceptance against the text, with the same full-length blocks every time."""
        generator = torch.Generator().manual_seed(EVALUATION_SEED)
        counts = AcceptanceCounts(self._config.block_size)
        losses = []
        for held_out in batches:
            batch = held_out.to(self._model.device)
            blocks = self._sample(batch, generator, shorten_probability=0.0)
            slots = self._run_views(batch, blocks)
            losses.append(self._loss(slots))
            agrees = torch.zeros_like(blocks.is_trained)
            agrees[blocks.is_trained] = self._choices(slots.hidden) == slots.target_ids
            counts.add(agrees, blocks.is_trained)
        total = torch.stack([loss.total for loss in losses]).sum()
        weight = torch.stack([loss.weight for loss in losses]).sum()
        return {"loss": (total / weight).item(), **counts.figures()}

    def _sample(self, batch: PackedBatch, generator: torch.Generator, shorten_probability: float) -> Blocks:
        return sample_blocks(
            batch,
            num_anchors=self._config.anchors_per_sequence,
            block_size=self._config.block_size,
            shorten_probability=shorten_probability,
            generator=generator,
        )

    def _run_views(self, batch: PackedBatch, blocks: Blocks) -> TrainedSlots:
        """One AR pass over the text without gradient, one diffusion pass over the blocks."""
        positions, positions_of_blocks = batch.position_ids, block_positions(batch, blocks)
        masks = LayerMasks(causal_document_mask(batch), positions, positions)
        block_masks = LayerMasks(
            block_diffusion_mask(batch, blocks),
            positions_of_blocks,
            torch.cat([positions, positions_of_blocks], dim=1),
        )
        with self._autocast:
            record = RecordingAttend(masks)
            with torch.no_grad():
                ar_hidden = self._hidden(batch.input_ids, positions, "ar", record)
            attend = BlockAttend(record.recorded, block_masks)
            ids = block_ids(batch, blocks, mask_token_id=self._mask_token_id)
            hidden = self._hidden(ids, positions_of_blocks, "diffusion", attend)
        trained = blocks.is_trained
        row_idx = torch.arange(trained.shape[0], device=trained.device)[:, None, None].expand_as(trained)
        decay = self._config.slot_decay ** torch.arange(trained.shape[-1], device=trained.device)
        return TrainedSlots(
            hidden=hidden.view(*trained.shape, -1)[trained],
            teacher_hidden=ar_hidden[row_idx[trained], blocks.slot_idx[trained]],
            target_ids=target_ids(batch, blocks)[trained],
            weights=decay.float().expand_as(trained)[trained],
        )

    def _hidden(self, ids: Tensor, position_ids: Tensor, view: View, attend: Attend) -> Tensor:
        return self._model.hidden_states(ids, position_ids, view=view, attend=attend, decoder=self._forward)

    def _loss(self, slots: TrainedSlots) -> LossSum:
        is_kl = self._config.loss == "forward_kl"
        with self._autocast:
            return distillation_loss(
                slots.hidden,
                self._model.lm_head.weight,
                softcap=self._model.logit_softcap,
                weights=slots.weights,
                teacher_hidden=slots.teacher_hidden if is_kl else None,
                target_ids=None if is_kl else slots.target_ids,
                rows_per_chunk=self._config.rows_per_chunk,
            )

    def _choices(self, hidden: Tensor) -> Tensor:
        """(R,) int64, the tokens that the diffusion view would draft."""
        with self._autocast:
            chunks = hidden.split(self._config.rows_per_chunk)
            return torch.cat([self._model.logits(chunk).float().argmax(-1) for chunk in chunks])
