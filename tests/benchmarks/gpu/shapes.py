"""Model shapes to measure, with random weights made on the device."""

import torch
from transformers.initialization import no_init_weights

from orthrus_core.errors import ConfigError
from orthrus_core.models.config import OrthrusConfig
from orthrus_core.models.cost import ModelShape
from orthrus_core.models.model import OrthrusLM

BLOCK_SIZE = 32
WEIGHT_STD = 0.02
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


@torch.no_grad()
def random_model(
    shape: ModelShape, *, device: torch.device, dtype: torch.dtype, max_context: int, seed: int = 0
) -> OrthrusLM:
    """Return a model of this shape with normal weights, made on the device; its two views differ."""
    config = OrthrusConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=max_context,
        tie_word_embeddings=shape.tied_embeddings,
        block_size=BLOCK_SIZE,
        mask_token_id=0,
    )
    with torch.device(device), no_init_weights():
        model = OrthrusLM._from_config(config, dtype=dtype)
    model.tie_weights()
    generator = torch.Generator(device).manual_seed(seed)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.fill_(1.0)
        else:
            parameter.normal_(std=WEIGHT_STD, generator=generator)
    return model.eval()
