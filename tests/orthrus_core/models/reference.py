"""Both views as the description defines them: one dense forward in FP64, loops and a mask, no cache."""

import math

import torch
from torch import Tensor
from transformers import PreTrainedModel


def ar_logits(model: PreTrainedModel, token_ids: list[int]) -> Tensor:
    """Return (N, V) float64 logits of the AR view."""
    return _forward(model, token_ids, num_ar=len(token_ids))


def diffusion_logits(model: PreTrainedModel, prefix_ids: list[int], block_ids: list[int]) -> Tensor:
    """Return (K, V) float64 logits of a block that starts at position len(prefix_ids)."""
    return _forward(model, prefix_ids + block_ids, num_ar=len(prefix_ids))[len(prefix_ids) :]


def visible(row: int, column: int, num_ar: int) -> bool:
    """Whether a row sees a column: AR rows what is not later, diffusion rows everything."""
    return column <= row if row < num_ar else True


def _forward(model: PreTrainedModel, token_ids: list[int], *, num_ar: int) -> Tensor:
    """Run the rows before `num_ar` through the AR projections and the others through the diffusion ones."""
    config = model.config
    weights = {name: tensor.double() for name, tensor in model.state_dict().items()}
    suffixes = ["" if row < num_ar else "_diff" for row in range(len(token_ids))]
    hidden = [weights["model.embed_tokens.weight"][token_id] for token_id in token_ids]
    for index in range(config.num_hidden_layers):
        layer = {
            name.removeprefix(f"model.layers.{index}."): tensor
            for name, tensor in weights.items()
            if name.startswith(f"model.layers.{index}.")
        }
        normed = [_norm(row, layer["input_layernorm.weight"], config.rms_norm_eps) for row in hidden]
        mixed = _attention(layer, normed, suffixes, num_ar, config)
        hidden = [row + update for row, update in zip(hidden, mixed, strict=True)]
        normed = [_norm(row, layer["post_attention_layernorm.weight"], config.rms_norm_eps) for row in hidden]
        hidden = [row + _mlp(layer, x) for row, x in zip(hidden, normed, strict=True)]
    hidden = [_norm(row, weights["model.norm.weight"], config.rms_norm_eps) for row in hidden]
    return torch.stack([weights["lm_head.weight"] @ row for row in hidden])


def _attention(
    layer: dict[str, Tensor], rows: list[Tensor], suffixes: list[str], num_ar: int, config
) -> list[Tensor]:
    H, Hkv, Dh = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    theta = config.rope_parameters["rope_theta"]
    queries, keys, values = [], [], []
    for position, (row, suffix) in enumerate(zip(rows, suffixes, strict=True)):
        q = _linear(layer, f"self_attn.q_proj{suffix}", row).view(H, Dh)
        k = _linear(layer, f"self_attn.k_proj{suffix}", row).view(Hkv, Dh)
        q = _norm(q, layer[f"self_attn.q_norm{suffix}.weight"], config.rms_norm_eps)
        k = _norm(k, layer[f"self_attn.k_norm{suffix}.weight"], config.rms_norm_eps)
        queries.append(_rotate(q, position, theta))
        keys.append(_rotate(k, position, theta))
        values.append(_linear(layer, f"self_attn.v_proj{suffix}", row).view(Hkv, Dh))
    out = []
    for row, suffix in enumerate(suffixes):
        seen = [column for column in range(len(rows)) if visible(row, column, num_ar)]
        heads = []
        for head in range(H):
            kv_head = head // (H // Hkv)
            scores = torch.stack([queries[row][head] @ keys[column][kv_head] for column in seen])
            weights = torch.softmax(scores / math.sqrt(Dh), dim=0)
            heads.append(weights @ torch.stack([values[column][kv_head] for column in seen]))
        out.append(_linear(layer, f"self_attn.o_proj{suffix}", torch.cat(heads)))
    return out


def _linear(layer: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    y = layer[f"{name}.weight"] @ x
    return y + layer[f"{name}.bias"] if f"{name}.bias" in layer else y


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / torch.sqrt((x * x).mean(dim=-1, keepdim=True) + eps) * weight


def _rotate(x: Tensor, position: int, theta: float) -> Tensor:
    """Turn the pairs (i, i + Dh/2) of every head by position * theta^(-2i/Dh)."""
    half = x.shape[-1] // 2
    out = x.clone()
    for i in range(half):
        angle = position * theta ** (-i / half)
        out[:, i] = x[:, i] * math.cos(angle) - x[:, i + half] * math.sin(angle)
        out[:, i + half] = x[:, i + half] * math.cos(angle) + x[:, i] * math.sin(angle)
    return out


def _mlp(layer: dict[str, Tensor], x: Tensor) -> Tensor:
    gate = layer["mlp.gate_proj.weight"] @ x
    return layer["mlp.down_proj.weight"] @ (gate * torch.sigmoid(gate) * (layer["mlp.up_proj.weight"] @ x))
