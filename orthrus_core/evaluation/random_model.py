"""Models with random weights, of any shape, to measure speed where no trained head is at hand."""

import torch
from transformers.initialization import no_init_weights

from orthrus_core.models.config import OrthrusConfig
from orthrus_core.models.cost import ModelShape
from orthrus_core.models.model import OrthrusLM

WEIGHT_STD = 0.02


@torch.no_grad()
def random_model(
    shape: ModelShape,
    *,
    block_size: int = 32,
    max_context: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> OrthrusLM:
    """Return a model of normal weights, made on the device; its two views differ, its vocabulary has no EOS.

    Args:
        shape: `dtype_bytes` plays no part.
        block_size: K of its untrained head.
        max_context: positions that it takes.
        seed: of the weights, on a device of one kind.
    """
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
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        block_size=block_size,
        mask_token_id=shape.vocab_size - 1,
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


def random_prompts(count: int, length: int, *, vocab_size: int, seed: int = 0) -> list[list[int]]:
    """Return prompts of random tokens; the last id of the vocabulary, the mask token, is none of them."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocab_size - 1, (count, length), generator=generator).tolist()
