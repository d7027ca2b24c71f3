"""Random LoRA adapters as peft saves them."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

TARGETS = ("q_proj", "o_proj", "down_proj")


def save_adapter(
    directory: Path,
    model: nn.Module,
    *,
    targets: tuple[str, ...] = TARGETS,
    rank: int = 3,
    scale: float = 0.1,
    tensors: dict[str, Tensor] | None = None,
    **fields: Any,
) -> Path:
    """Write an adapter for the linear layers whose names end so.

    Args:
        scale: standard deviation of A and B.
        tensors: more of them.
        fields: of adapter_config.json.
    """
    generator, found = torch.Generator().manual_seed(7), dict(tensors or {})
    for name, module in model.named_modules():
        if name.endswith(targets) and isinstance(module, nn.Linear):
            for part, shape in (("A", (rank, module.in_features)), ("B", (module.out_features, rank))):
                made = torch.randn(shape, generator=generator) * scale
                found[f"base_model.model.{name}.lora_{part}.weight"] = made
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 6, "target_modules": [*targets], "bias": "none"}
    config |= {"task_type": "CAUSAL_LM", "use_rslora": False, "init_lora_weights": True}
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "adapter_config.json").write_text(json.dumps(config | fields))
    save_file(found, directory / "adapter_model.safetensors")
    return directory
