"""Random models of a few thousand parameters, for tests that want a real forward and no training."""

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from orthrus_core.models.attention import DIFFUSION_SUFFIX
from orthrus_core.models.head import add_diffusion_head
from orthrus_core.models.model import OrthrusLM

VOCAB_SIZE = 97
MASK_TOKEN_ID = 96


def small_backbone(
    *,
    seed: int = 0,
    num_layers: int = 2,
    head_dim: int = 16,
    tied: bool = True,
    sameness: float = 0.0,
    dtype: torch.dtype = torch.float32,
    **fields,
) -> Qwen3ForCausalLM:
    """Return a random Qwen3 model with 4 query and 2 key/value heads and no EOS, in evaluation mode.

    Args:
        seed: the weights are a function of it and the shape.
        tied: whether the output head is the embedding.
        sameness: size of a vector added to all embeddings. With 0 a completion of 40 tokens has about 15
            different ones and few drafts stand (1.3 tokens per step); 0.2: about 3 and 2 to 3 tokens per
            step; 1.0: nearly constant text, nearly every draft stands.
        fields: further fields of `Qwen3Config`, for instance eos_token_id, hidden_size or attention_bias.
    """
    values = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": num_layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": head_dim,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": tied,
        "initializer_range": 0.2,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(Qwen3Config(**values | fields))
        _add_noise(model, "norm", scale=0.1)  # away from 1, so that a norm left out is seen
        _add_noise(model, "bias", scale=0.1)
        embedding = model.get_input_embeddings().weight
        embedding.add_(torch.randn(embedding.shape[1]) * sameness)
    return model.to(dtype).eval()


def small_orthrus(
    *,
    seed: int = 0,
    block_size: int = 8,
    mask_token_id: int = MASK_TOKEN_ID,
    noise: float = 0.01,
    dtype: torch.dtype = torch.float32,
    **backbone,
) -> OrthrusLM:
    """Return `small_backbone` with a diffusion head that is a noisy copy of the AR projections.

    Args:
        noise: standard deviation added to every `*_diff` tensor (matrices have 0.2). With 0.1 and more,
            drafts rarely stand.
        backbone: arguments of `small_backbone`.
    """
    model = add_diffusion_head(
        small_backbone(seed=seed, **backbone), block_size=block_size, mask_token_id=mask_token_id
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed + 1)
        _add_noise(model, DIFFUSION_SUFFIX, scale=noise)
    return model.to(dtype)


def _add_noise(model: torch.nn.Module, name_part: str, *, scale: float) -> None:
    for name, parameter in model.named_parameters():
        if name_part in name:
            parameter.add_(torch.randn(parameter.shape) * scale)
