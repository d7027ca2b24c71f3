"""Random backbones of a few thousand parameters, one of each architecture that the tests cover."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from orthrus_core.models.attention import DIFFUSION_SUFFIX
from orthrus_core.models.head import add_diffusion_head
from tests.small_models import MASK_TOKEN_ID, VOCAB_SIZE

COMMON = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
ALTERNATING = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 6}
MIXTURE = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 16}
# What differs from COMMON, by a name for the test: (model_type, fields).
BACKBONES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("qwen3", {"head_dim": 16}),
    "qwen2": ("qwen2", {"hidden_size": 64}),
    "qwen2-window": (
        "qwen2",
        {"hidden_size": 64, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    ),
    "llama": ("llama", {"hidden_size": 64}),
    "llama-3.1": (
        "llama",
        {
            "head_dim": 16,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
            "attention_bias": True,
            "tie_word_embeddings": True,
        },
    ),
    "mistral-yarn": (
        "mistral",
        {
            "head_dim": 16,
            "sliding_window": None,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        },
    ),
    "mistral-window": ("mistral", {"head_dim": 16, "sliding_window": 6}),
    "gemma2": (
        "gemma2",
        {
            "head_dim": 16,
            "query_pre_attn_scalar": 9,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
            **ALTERNATING,
        },
    ),
    "gemma3": (
        "gemma3_text",
        {
            "head_dim": 16,
            "query_pre_attn_scalar": 9,
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
                "full_attention": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
            },
            **ALTERNATING,
        },
    ),
    "qwen3-moe": ("qwen3_moe", {**MIXTURE, "norm_topk_prob": True}),
    "qwen3-moe-mixed": ("qwen3_moe", {**MIXTURE, "mlp_only_layers": [0], "tie_word_embeddings": True}),
}


def new_backbone(name: str, *, seed: int = 0, **fields) -> PreTrainedModel:
    """Return a random FP32 model in evaluation mode, its norms and biases away from their initial values."""
    model_type, own = BACKBONES[name]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **COMMON | own | fields))
        for parameter_name, parameter in model.named_parameters():
            if "norm" in parameter_name or "bias" in parameter_name:
                parameter.add_(torch.randn(parameter.shape) * 0.1)
    return model.float().eval()


def with_head(name: str, *, noise: float = 0.01, dtype: torch.dtype = torch.float32, **fields):
    """Return `new_backbone` with a head that is a noisy copy of its projections."""
    model = add_diffusion_head(new_backbone(name, **fields), block_size=8, mask_token_id=MASK_TOKEN_ID)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        for parameter_name, parameter in model.named_parameters():
            if DIFFUSION_SUFFIX in parameter_name:
                parameter.add_(torch.randn(parameter.shape) * noise)
    return model.to(dtype)
