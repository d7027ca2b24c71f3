"""Training the diffusion head: its blocks learn what the frozen AR view says over the same tokens."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.functional import pad

from orthrus_core.attention.view import Attend, View
from orthrus_core.errors import ConfigError
from orthrus_core.linear.quantised import QuantisedLinear
from orthrus_core.models.attention import DIFFUSION_SUFFIX
from orthrus_core.models.model import OrthrusLM
from orthrus_core.training.acceptance import BlockLengths
from orthrus_core.training.anchors import Blocks, block_ids, block_positions, sample_blocks
from orthrus_core.training.attend import KeysAndValues, MaskedAttention, PassAttention, Recording
from orthrus_core.training.config import HeadConfig
from orthrus_core.training.flex import FlexAttention
from orthrus_core.training.losses import LossSum, chunk_rows, distillation_loss
from orthrus_core.training.masks import block_sight, text_sight
from orthrus_core.training.packing import PackedBatch
from orthrus_core.training.recompute import Recomputed

EVALUATION_SEED = 0


@dataclass(frozen=True)
class ReadText:
    """What the AR view left of a packed batch: all that its blocks need, however many there are.

    Attributes:
        batch: padded to the attention's tile.
        hidden: (B, N, D), after the last norm.
        recorded: keys and values (B, Hkv, N, Dh) by layer.
    """

    batch: PackedBatch
    hidden: Tensor
    recorded: KeysAndValues


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
    """Forward KL from the AR view to the diffusion view; only `*_diff` tensors get a gradient.

    The backbone runs once per batch, without gradient; all blocks read the keys and values of that pass.
    """

    def __init__(
        self, model: OrthrusLM, config: HeadConfig, *, precision: str, seed: int, compiled: bool = False
    ) -> None:
        """Freeze the backbone and prepare to train the head of `model`.

        Args:
            model: the frozen tensors can be BF16 beside FP32 `*_diff` ones if `precision` is "bfloat16".
            precision: arithmetic of the linears, "bfloat16" or "float32".
            seed: draws the anchors.
        Raises:
            ConfigError: FlexAttention is asked for and the model is not on a CUDA device, or its weights are
                bytes.
        """
        if any(isinstance(module, QuantisedLinear) for module in model.modules()):
            raise ConfigError("bytes take no gradient: train on the model as it is, loaded without weights=")
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(DIFFUSION_SUFFIX in name)
        assert model.config.mask_token_id is not None  # OrthrusLM refuses a config without one
        self.module = model
        self._mask_token_id = model.config.mask_token_id
        self._config = config
        self._rows_per_chunk = config.rows_per_chunk or chunk_rows(
            model.config.vocab_size, config.loss_chunk_mib * 2**20
        )
        self._attention = new_attention(model, config)
        # Tiles make the shapes of both passes the same every time, and kernels of fixed shapes are faster.
        dynamic = False if isinstance(self._attention, FlexAttention) else None
        self._forward = torch.compile(model.model, dynamic=dynamic) if compiled else model.model
        self._recomputed = Recomputed(model.model.layers if config.checkpoint_layers else ())
        self._generator = torch.Generator().manual_seed(seed)
        self._autocast = torch.autocast(model.device.type, torch.bfloat16, enabled=precision == "bfloat16")

    def named_parameters(self) -> list[tuple[str, Parameter]]:
        """The parameters of the head."""
        return [(name, p) for name, p in self.module.named_parameters() if p.requires_grad]

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the weights: where the drawing of anchors stands."""
        return {"anchor_generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self._generator.set_state(torch.as_tensor(state["anchor_generator"], dtype=torch.uint8).cpu())

    def loss(self, batch: PackedBatch) -> LossSum:
        """Loss over newly drawn blocks."""
        blocks = self._sample(batch, self._generator, self._config.shorten_probability)
        text = self.read(batch)
        return self._loss(self._slots(text, blocks, self.draft(text, blocks)))

    @torch.no_grad()
    def evaluate(self, batches: Sequence[PackedBatch]) -> dict[str, float]:
        """Loss and acceptance against the text, with the same blocks every time, `evaluation_anchors` or so.

        Returns:
            `loss`, `acceptance_length` and `accepted_at_i` of blocks of K slots, `acceptance_length_at_k` of
            the same blocks cut to k slots, as the engine shortens them; see `AcceptanceCounts`.
        """
        generator = torch.Generator().manual_seed(EVALUATION_SEED)
        lengths = BlockLengths(self._config.block_size)
        losses: list[LossSum] = []
        num_anchors = 0
        for batch in batches:
            if num_anchors >= self._config.evaluation_anchors:
                break
            blocks = self._sample(batch, generator, shorten_probability=0.0)
            num_anchors += int(blocks.is_trained[..., 0].sum())
            text = self.read(batch)
            for length in lengths:
                cut = blocks.shortened(length)
                slots = self._slots(text, cut, self.draft(text, cut))
                agrees = torch.zeros_like(cut.is_trained)
                agrees[cut.is_trained] = (self._choices(slots.hidden) == slots.target_ids).cpu()
                lengths.add(length, agrees, cut.is_trained)
            losses.append(self._loss(slots))  # of the last and longest
        total = torch.stack([loss.total for loss in losses]).sum()
        weight = torch.stack([loss.weight for loss in losses]).sum()
        return {"loss": (total / weight).item(), **lengths.figures()}

    @torch.no_grad()
    def read(self, batch: PackedBatch) -> ReadText:
        """Run the AR view over a batch."""
        batch = batch.to(self.module.device).padded(self._attention.tile)
        record = Recording(self._attention.over_text(text_sight(batch)))
        hidden = self._hidden(batch.input_ids, batch.position_ids, "ar", record)
        return ReadText(batch, hidden, record.recorded)

    def draft(self, text: ReadText, blocks: Blocks) -> Tensor:
        """Run the diffusion view over blocks of a text.

        Returns:
            (B, A, K, D) after the last norm; void in slots past the end of a short block.
        """
        blocks = blocks.to(self.module.device)
        ids = block_ids(text.batch, blocks, mask_token_id=self._mask_token_id)
        missing = -ids.shape[1] % self._attention.tile
        sight = block_sight(text.batch, blocks, num_slots=ids.shape[1] + missing)
        attend = self._attention.over_blocks(text.recorded, sight, blocks.slot_idx.shape[-1])
        positions = pad(block_positions(text.batch, blocks), (0, missing))
        with self._recomputed if torch.is_grad_enabled() else nullcontext():
            hidden = self._hidden(
                pad(ids, (0, missing), value=self._mask_token_id), positions, "diffusion", attend
            )
        return hidden[:, : ids.shape[1]].view(*blocks.slot_idx.shape, -1)

    def _hidden(self, ids: Tensor, position_ids: Tensor, view: View, attend: Attend) -> Tensor:
        with self._autocast:
            return self.module.hidden_states(
                ids, position_ids, view=view, attend=attend, decoder=self._forward
            )

    def _sample(self, batch: PackedBatch, generator: torch.Generator, shorten_probability: float) -> Blocks:
        """Blocks on the CPU, so that counting their slots there keeps no device waiting."""
        return sample_blocks(
            batch.to(torch.device("cpu")),
            num_anchors=self._config.anchors_per_sequence,
            block_size=self._config.block_size,
            shorten_probability=shorten_probability,
            generator=generator,
        )

    def _slots(self, text: ReadText, blocks: Blocks, hidden: Tensor) -> TrainedSlots:
        """Pick the trained slots of CPU blocks out of hidden states (B, A, K, D)."""
        row, block, slot = (idx.to(hidden.device) for idx in blocks.is_trained.nonzero(as_tuple=True))
        at = blocks.slot_idx.to(hidden.device)[row, block, slot]
        return TrainedSlots(
            hidden=hidden[row, block, slot],
            teacher_hidden=text.hidden[row, at],
            target_ids=text.batch.input_ids[row, at + 1],
            weights=self._config.slot_decay ** slot.float(),
        )

    def _loss(self, slots: TrainedSlots) -> LossSum:
        is_kl = self._config.loss == "forward_kl"
        with self._autocast:
            return distillation_loss(
                slots.hidden,
                self.module.lm_head.weight,
                softcap=self.module.logit_softcap,
                weights=slots.weights,
                teacher_hidden=slots.teacher_hidden if is_kl else None,
                target_ids=None if is_kl else slots.target_ids,
                rows_per_chunk=self._rows_per_chunk,
            )

    def _choices(self, hidden: Tensor) -> Tensor:
        """(R,) int64, the tokens that the diffusion view would draft."""
        with self._autocast:
            chunks = hidden.split(self._rows_per_chunk)
            return torch.cat([self.module.logits(chunk).argmax(-1) for chunk in chunks])


def new_attention(model: OrthrusLM, config: HeadConfig) -> PassAttention:
    """The attention that a config asks for, on the model's device.

    Raises:
        ConfigError: FlexAttention is asked for and the model is not on a CUDA device.
    """
    is_cuda = model.device.type == "cuda"
    if config.attention == "flex" and not is_cuda:
        raise ConfigError(
            f"head.attention flex needs a CUDA device, got {model.device.type}: use auto or masked"
        )
    windows = {None, getattr(model.config, "sliding_window", None)}
    use_flex = config.attention == "flex" or (config.attention == "auto" and is_cuda)
    return FlexAttention(windows) if use_flex else MaskedAttention(windows)
