"""What one forward moves and computes, by formula.

    bytes = weights + K/V read of all sequences + K/V written
    FLOPs = 2 * matrix parameters * token rows + 4 * token rows * context * H * Dh * L

Neglected: activations, the embedding look-up, norms, the softmax, and token rows left over in a budget. Each
sequence's K/V counts as read once per forward, however many of its rows run. Both views cost the same, since
the diffusion view's projections have the shapes of the AR view's.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from orthrus_core.errors import ConfigError
from orthrus_core.models.config import head_dim

EXPERTS_FIELDS = ("num_experts", "num_local_experts", "n_routed_experts")


def has_experts(config: Any) -> bool:
    """Whether a model of this config is a mixture of experts."""
    return any(getattr(config, name, None) for name in EXPERTS_FIELDS)


class ModelShape(BaseModel):
    """Sizes of a Qwen3-like backbone; its diffusion head follows from them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_layers: int = Field(ge=1, description="L.")
    hidden_size: int = Field(ge=1, description="D.")
    num_heads: int = Field(ge=1, description="H, query heads.")
    num_kv_heads: int = Field(ge=1, description="Hkv, key/value heads.")
    head_dim: int = Field(ge=1, description="Dh.")
    intermediate_size: int = Field(ge=1, description="Width of the gated MLP.")
    vocab_size: int = Field(ge=1, description="V.")
    tied_embeddings: bool = Field(description="Whether the output matrix is the embedding.")
    dtype_bytes: int = Field(2, ge=1, description="Bytes of one weight, activation and K/V number.")
    layer_weight_bytes: int | None = Field(
        None, ge=1, description="Of a weight in a layer, where it differs."
    )
    output_weight_bytes: int | None = Field(None, ge=1, description="Of one in the output matrix, likewise.")

    @classmethod
    def from_config(cls, config: Any, *, dtype_bytes: int = 2, **weight_bytes: int | None) -> "ModelShape":
        """Return the shape that a transformers config of a Qwen3-like model describes.

        Raises:
            ConfigError: the model is a mixture of experts, whose rows do not all read the same weights.
        """
        if has_experts(config):
            raise ConfigError(
                "the cost formulas cover dense models only, and this one is a mixture of experts"
            )
        return cls(
            num_layers=config.num_hidden_layers,
            hidden_size=config.hidden_size,
            num_heads=config.num_attention_heads,
            num_kv_heads=config.num_key_value_heads,
            head_dim=head_dim(config),
            intermediate_size=config.intermediate_size,
            vocab_size=config.vocab_size,
            tied_embeddings=config.tie_word_embeddings,
            dtype_bytes=dtype_bytes,
            **weight_bytes,
        )

    @property
    def matrix_params(self) -> int:
        """Parameters that a token row is multiplied with: projections, MLPs and the output matrix."""
        return self._layer_params + self._output_params

    @property
    def matrix_bytes(self) -> int:
        """Bytes of those parameters."""
        of_layers = self._layer_params * (self.layer_weight_bytes or self.dtype_bytes)
        return of_layers + self._output_params * (self.output_weight_bytes or self.dtype_bytes)

    @property
    def backbone_params(self) -> int:
        """All parameters of the backbone: matrices, norms and, where it is not tied, the embedding."""
        norms = self.num_layers * 2 * (self.hidden_size + self.head_dim) + self.hidden_size
        embedding = 0 if self.tied_embeddings else self.vocab_size * self.hidden_size
        return self.matrix_params + norms + embedding

    @property
    def head_params(self) -> int:
        """Parameters of the diffusion head: a second set of projections and query/key norms."""
        return self.num_layers * (self._projection_params + 2 * self.head_dim)

    @property
    def kv_bytes_per_token(self) -> int:
        """Cache bytes of one position over all layers; both views share them."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * self.dtype_bytes

    @property
    def _layer_params(self) -> int:
        """Projections and MLPs of all layers."""
        mlp = 3 * self.hidden_size * self.intermediate_size
        return self.num_layers * (self._projection_params + mlp)

    @property
    def _output_params(self) -> int:
        return self.vocab_size * self.hidden_size

    @property
    def _projection_params(self) -> int:
        """Query, key, value and output projections of one layer."""
        return 2 * self.hidden_size * self.head_dim * (self.num_heads + self.num_kv_heads)


def forward_bytes(shape: ModelShape, *, rows: int, sequences: int, context: int) -> int:
    """Bytes that one forward moves.

    Args:
        rows: token rows of all sequences together; each writes K/V.
        sequences: those with a row; each has its K/V read once.
        context: positions in the cache of each.
    """
    return shape.matrix_bytes + (sequences * context + rows) * shape.kv_bytes_per_token


def forward_flops(shape: ModelShape, *, rows: int, context: int) -> int:
    """Floating-point operations of one forward; a row attends to `context` positions."""
    attention = 4 * rows * context * shape.num_heads * shape.head_dim * shape.num_layers
    return 2 * shape.matrix_params * rows + attention
