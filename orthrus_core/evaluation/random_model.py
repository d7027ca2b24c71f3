"""Models with random weights, of any shape, to measure speed where no trained head is at hand."""

from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from orthrus_core.models.cost import ModelShape
from orthrus_core.models.head import add_diffusion_head
from orthrus_core.models.model import OrthrusLM


def random_model(
    shape: ModelShape,
    *,
    block_size: int,
    max_context: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> OrthrusLM:
    """Return a model whose weights are a function of shape and seed; its vocabulary has no EOS.

    Args:
        shape: `dtype_bytes` plays no part.
        block_size: K of its untrained head.
        max_context: positions that it takes.
    """
    config = Qwen3Config(
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
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone: Any = Qwen3ForCausalLM(config)
    backbone = backbone.to(device=device, dtype=dtype)
    return add_diffusion_head(backbone, block_size=block_size, mask_token_id=shape.vocab_size - 1)


def random_prompts(count: int, length: int, *, vocab_size: int, seed: int = 0) -> list[list[int]]:
    """Return prompts of random tokens; the last id of the vocabulary, the mask token, is none of them."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocab_size - 1, (count, length), generator=generator).tolist()
