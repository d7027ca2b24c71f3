"""Training a small backbone from scratch: next-token loss on packed documents."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter
from transformers import AttentionInterface, Qwen3Config, Qwen3ForCausalLM

from orthrus_core.training.attend import masked_attention
from orthrus_core.training.config import BackboneConfig
from orthrus_core.training.losses import LossSum, next_token_loss, next_token_weights
from orthrus_core.training.masks import causal_document_mask
from orthrus_core.training.packing import PackedBatch

ATTENTION_NAME = "orthrus_training"


def _attention(
    module: Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float,
    **_: object,
) -> tuple[Tensor, None]:
    """`masked_attention` in the form that transformers calls."""
    return masked_attention(query, key, value, mask=attention_mask, scaling=scaling), None


def new_backbone(
    config: BackboneConfig, *, vocab_size: int, eos_token_id: int, seed: int
) -> Qwen3ForCausalLM:
    """A Qwen3 model with random FP32 weights, a function of config and seed alone."""
    AttentionInterface.register(ATTENTION_NAME, _attention)
    qwen3 = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        max_position_embeddings=config.max_position_embeddings,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        tie_word_embeddings=True,
        initializer_range=config.hidden_size**-0.5 / 2,
        bos_token_id=None,
        eos_token_id=eos_token_id,
        pad_token_id=None,
        use_cache=True,
        dtype=torch.float32,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(qwen3)
    model.set_attn_implementation(ATTENTION_NAME)
    return model


class BackboneObjective:
    """Cross-entropy of the next token, on completions and, with a small weight, on prompts."""

    def __init__(
        self, model: Qwen3ForCausalLM, config: BackboneConfig, *, precision: str, compiled: bool = False
    ) -> None:
        """Train every parameter of `model`, linears in `precision` ("bfloat16" or "float32")."""
        self._model = model
        self._forward = torch.compile(model.model) if compiled else model.model
        self._prompt_weight = config.prompt_weight
        self._autocast = torch.autocast(model.device.type, torch.bfloat16, enabled=precision == "bfloat16")

    @property
    def module(self) -> Qwen3ForCausalLM:
        """The model."""
        return self._model

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the loss leaves nothing to chance."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""

    def named_parameters(self) -> list[tuple[str, Parameter]]:
        """All parameters of the model."""
        return list(self._model.named_parameters())

    def loss(self, batch: PackedBatch) -> LossSum:
        """Weighted next-token loss of the batch."""
        return self._loss(batch, prompt_weight=self._prompt_weight)

    @torch.no_grad()
    def evaluate(self, batches: Sequence[PackedBatch]) -> dict[str, float]:
        """Mean loss per completion token."""
        sums = [self._loss(batch, prompt_weight=0.0) for batch in batches]
        total = torch.stack([loss.total for loss in sums]).sum()
        return {"loss": (total / torch.stack([loss.weight for loss in sums]).sum()).item()}

    def _loss(self, batch: PackedBatch, *, prompt_weight: float) -> LossSum:
        batch = batch.to(self._model.device)
        weights = next_token_weights(batch, prompt_weight=prompt_weight)
        with self._autocast:
            hidden = self._forward(
                batch.input_ids,
                position_ids=batch.position_ids,
                attention_mask={"full_attention": causal_document_mask(batch)},
                use_cache=False,
            ).last_hidden_state
            chosen = weights > 0
            logits = self._model.lm_head(hidden[chosen])
        target_ids = batch.input_ids.roll(-1, dims=1)[chosen]
        return next_token_loss(logits, target_ids, weights[chosen])
