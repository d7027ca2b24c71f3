"""Model shapes to measure."""

import torch

from orthrus_core.errors import ConfigError
from orthrus_core.models.cost import ModelShape

SIZES = {  # layers, D, H, Hkv, Dh, MLP, V, tied
    "tiny": (2, 64, 4, 2, 16, 96, 256, True),
    "demo": (4, 192, 6, 2, 32, 512, 1024, True),
    "1.7b": (28, 2048, 16, 8, 128, 6144, 151936, True),
    "8b": (36, 4096, 32, 8, 128, 12288, 151936, False),
}


def model_shape(name: str, *, dtype: torch.dtype, num_layers: int | None = None) -> ModelShape:
    """Return a named shape, with fewer layers if asked.

    Raises:
        ConfigError: there is no such name.
    """
    if name not in SIZES:
        raise ConfigError(f"--shape must be one of {', '.join(SIZES)}, got {name}")
    layers, D, H, Hkv, Dh, mlp, V, tied = SIZES[name]
    return ModelShape(
        num_layers=num_layers or layers,
        hidden_size=D,
        num_heads=H,
        num_kv_heads=Hkv,
        head_dim=Dh,
        intermediate_size=mlp,
        vocab_size=V,
        tied_embeddings=tied,
        dtype_bytes=dtype.itemsize,
    )
