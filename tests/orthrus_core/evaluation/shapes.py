"""A model shape small enough to count by hand."""

from orthrus_core.models.cost import ModelShape

TINY = ModelShape(
    num_layers=2,
    hidden_size=4,
    num_heads=2,
    num_kv_heads=1,
    head_dim=2,
    intermediate_size=3,
    vocab_size=5,
    tied_embeddings=True,
)
