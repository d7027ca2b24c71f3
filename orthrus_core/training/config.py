"""Settings of the training loop; frozen, checked once at the edge."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class StrictConfig(BaseModel):
    """Base of all training settings: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class OptimizerConfig(StrictConfig):
    """Muon on matrices and AdamW on the rest, or AdamW on all; one schedule, one norm to clip to."""

    kind: Literal["muon", "adamw"] = Field(
        "muon", description="muon: Muon on matrices, AdamW on embeddings and norms. adamw: AdamW on all."
    )
    muon_lr: float = Field(4e-3, gt=0, description="Peak learning rate of Muon (matrices but embeddings).")
    adamw_lr: float = Field(4e-3, gt=0, description="Peak learning rate of AdamW, betas 0.9 and 0.95.")
    weight_decay: float = Field(0.0, ge=0, description="Weight decay of the matrices; nothing else decays.")
    warmup: float = Field(0.02, ge=0, lt=1, description="Share of the run with a rising learning rate.")
    decay: Literal["linear", "cosine"] = Field("linear", description="Shape of the fall after the warm-up.")
    final_lr: float = Field(0.0, ge=0, le=1, description="Learning rate at the end, as a share of the peak.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are scaled down to this global norm.")


class LoopConfig(StrictConfig):
    """Length, rhythm and precision of a training run."""

    max_tokens: int = Field(
        ..., gt=0, description="Budget of document tokens of all processes; the schedule follows it."
    )
    accumulate: int = Field(1, gt=0, description="Batches per update and process; their gradients add up.")
    precision: Literal["bfloat16", "float32"] = Field(
        "bfloat16", description="Arithmetic of the linear layers; trained weights and norms stay FP32."
    )
    frozen_precision: Literal["bfloat16", "float32"] = Field(
        "float32", description="How frozen matrices are held; bfloat16 halves their memory."
    )
    log_every_s: float = Field(10.0, gt=0, description="Seconds between log lines.")
    evaluate_every_s: float = Field(120.0, gt=0, description="Seconds between held-out evaluations.")
    evaluate_every_steps: int | None = Field(None, gt=0, description="Updates between them, if sooner.")
    save_every_s: float = Field(180.0, gt=0, description="Seconds between snapshots of the weights.")
    save_every_steps: int | None = Field(None, gt=0, description="Updates between them, if sooner.")

    @model_validator(mode="after")
    def _fit_together(self) -> "LoopConfig":
        if self.precision == "float32" and self.frozen_precision == "bfloat16":
            raise ValueError("frozen_precision bfloat16 needs precision bfloat16: set both or neither")
        return self


class PackingConfig(StrictConfig):
    """Shape of a batch."""

    sequence_len: int = Field(512, gt=1, description="Tokens per packed row; no document may be longer.")
    sequences_per_batch: int = Field(8, gt=0, description="Packed rows per batch.")


class BackboneConfig(StrictConfig):
    """Shape and loss of a small Qwen3 backbone trained from scratch."""

    hidden_size: int = Field(192, gt=0, description="Width of the residual stream.")
    intermediate_size: int = Field(512, gt=0, description="Width of the MLPs.")
    num_layers: int = Field(4, gt=0, description="Decoder layers.")
    num_heads: int = Field(6, gt=0, description="Query heads.")
    num_key_value_heads: int = Field(2, gt=0, description="Key/value heads; divides num_heads.")
    head_dim: int = Field(32, gt=0, description="Size of one head.")
    max_position_embeddings: int = Field(2048, gt=0, description="Longest context the model is made for.")
    rope_theta: float = Field(10000.0, gt=0, description="Base of the rotary embedding.")
    prompt_weight: float = Field(0.0, ge=0, le=1, description="Loss weight of prompt tokens.")


class HeadConfig(StrictConfig):
    """Shape and loss of a diffusion head."""

    init: Literal["ar", "random"] = Field(
        "ar", description="Fresh head: copies of the AR view's projections, or random matrices."
    )
    block_size: int = Field(8, ge=2, description="K, the anchor and K-1 masks of one block.")
    mask_token_id: int | None = Field(
        None,
        ge=0,
        description="Token that stands for slots to draft. None: the tokenizer's mask token, else an unused "
        "id, else a reserved token, else a new row of the embedding table.",
    )
    anchors_per_sequence: int = Field(32, gt=0, description="Blocks trained per packed row.")
    evaluation_anchors: int = Field(
        1024, gt=0, description="Blocks of an evaluation: held-out batches are taken until they hold so many."
    )
    loss: Literal["forward_kl", "cross_entropy"] = Field(
        "forward_kl", description="Against the AR view's distribution, or against the token that follows."
    )
    slot_decay: float = Field(0.9, gt=0, le=1, description="Slot i of a block weighs slot_decay ** i.")
    shorten_probability: float = Field(
        0.0, ge=0, le=1, description="Share of blocks trained at a random shorter length, 2 to K - 1."
    )
    attention: Literal["auto", "flex", "masked"] = Field(
        "auto",
        description="flex: FlexAttention, needs CUDA. masked: written out, any device. "
        "auto: flex on CUDA, else masked.",
    )
    checkpoint_layers: bool = Field(
        False, description="Compute the layers of the diffusion pass again in the backward: less memory."
    )
    loss_chunk_mib: int = Field(
        512, gt=0, description="Memory for logits, in MiB; decides how many rows the loss takes at a time."
    )
    rows_per_chunk: int | None = Field(
        None, gt=0, description="Rows whose logits are held at a time. None: by loss_chunk_mib."
    )
